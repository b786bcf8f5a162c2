"""Something done again and again beside the main work, for as long as a block runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def repeated(call: Callable[[], None], *, every_s: float, name: str) -> Iterator[None]:
    """Call `call` in a thread every `every_s` seconds while the block runs, and once more when it ends.

    An OSError ends one call and not the thread: a file that is away for a moment is met again the next time.
    """
    over = threading.Event()

    def attempt() -> None:
        with suppress(OSError):
            call()

    def loop() -> None:
        while not over.wait(every_s):
            attempt()
        attempt()

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
