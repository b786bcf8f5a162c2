"""Values made ahead of time in the background: while one is used, the next ones are made.

One thread makes them in order, so that what makes them need not be safe for several. A failure is raised where the
value that could not be made is asked for.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """`make(number)` for number 0, 1, ... up to `end`, or from any other number on."""

    def __init__(self, make: Callable[[int], T], *, ahead: int, end: int) -> None:
        """`ahead`: values that are made before they are asked for; with 0 they are made when asked for, right here."""
        self._make, self._ahead, self._end = make, ahead, end
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._begun: deque[tuple[int, Future[T]]] = deque()

    def get(self, number: int) -> T:
        """The value of `number`; quick when the one before was the last to be asked for."""
        if not self._ahead:
            return self._make(number)
        if not self._begun or self._begun[0][0] != number:
            self._forget()
        following = self._begun[-1][0] + 1 if self._begun else number
        for upcoming in range(following, max(number + 1, min(number + self._ahead + 1, self._end))):
            self._begun.append((upcoming, self._pool.submit(self._make, upcoming)))
        return self._begun.popleft()[1].result()

    def close(self) -> None:
        """Forget what is not made yet; waits for the value that is being made."""
        self._forget()
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forget(self) -> None:
        for _, future in self._begun:
            future.cancel()
        self._begun.clear()
