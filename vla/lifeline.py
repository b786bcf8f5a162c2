"""A process that outlives the one it works for is ended: after kill -9 of DVC no stage keeps writing.

Linux can signal a child when its parent dies, but between DVC and a stage there may be a shell (dash stays, bash
makes way), so the stage itself watches the first ancestor that is not a shell. Polling costs a few microseconds and
needs nothing from the watched process.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ash", "ksh", "busybox"})
GRACE = 60.0
"""Seconds between SIGTERM and the hard end, enough to write a checkpoint."""


def start(*, grace: float = GRACE, poll: float = 0.5) -> None:
    """Tie this process to the DVC that started it; does nothing when a person started it.

    On loss this process gets SIGTERM, and `grace` seconds later its children are killed and it ends. A process
    without a handler for SIGTERM has nothing to save: its children are killed at once, so that none is orphaned.
    """
    if "DVC_STAGE" not in os.environ:
        return
    guardian = _guardian()
    if guardian is None:
        _end_with_grace(grace)
    else:
        _watch(guardian, lambda: _end_with_grace(grace), poll)


def identity() -> tuple[int, float]:
    """Process id and start time of this process, for `watch_process` in another one on the same machine."""
    return os.getpid(), psutil.Process().create_time()


def watch_process(pid: int, start_time: float, *, poll: float = 0.3, whole_group: bool = False) -> None:
    """End this process at once, without cleaning up, when the process (pid, start time) is gone.

    For workers that are no children of the driver that they write for, as under Ray. `whole_group` ends all of this
    process's group, for a process that leads one with servers in it.
    """

    def end() -> None:
        if whole_group:
            os.killpg(os.getpgid(0), signal.SIGKILL)
        os._exit(1)

    process = _find(pid, start_time)
    if process is None:
        end()
    else:
        _watch(process, end, poll)


def lives(pid: int, start_time: float) -> bool:
    """Whether the process (pid, start time) still runs."""
    process = _find(pid, start_time)
    return process is not None and _is_alive(process)


def watch_heartbeat(file: Path, *, limit: float, poll: float = 0.5) -> None:
    """End this process at once when the contents of `file` stay the same for `limit` seconds of this machine's clock.

    For workers on another machine than their driver; the machines' clocks are not compared. A file that cannot be read
    counts as unchanged.
    """

    def loop() -> None:
        seen, since = b"", time.monotonic()
        while time.monotonic() - since < limit:
            with suppress(OSError):
                found = file.read_bytes()
                if found != seen:
                    seen, since = found, time.monotonic()
            time.sleep(poll)
        os._exit(1)

    threading.Thread(target=loop, name="heartbeat", daemon=True).start()


def _find(pid: int, start_time: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        # The boot time that start times count from moves a little when the clock is set.
        return process if abs(process.create_time() - start_time) < 5.0 else None
    except psutil.NoSuchProcess:
        return None


def _guardian() -> psutil.Process | None:
    """The first ancestor that is not a shell, or None when it is gone already.

    What takes the place of a dead parent (an init process) is of another session. torchrun gives each worker a session
    of its own, which then says nothing.
    """
    session = os.getsid(0)
    try:
        for ancestor in psutil.Process().parents():
            if ancestor.name() not in SHELLS:
                return ancestor if session in (os.getpid(), os.getsid(ancestor.pid)) else None
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None
    return None


def _watch(process: psutil.Process, on_loss: Callable[[], None], poll: float) -> None:
    def loop() -> None:
        while _is_alive(process):
            time.sleep(poll)
        on_loss()

    threading.Thread(target=loop, name="lifeline", daemon=True).start()


def _is_alive(process: psutil.Process) -> bool:
    """Whether the same process still runs; one that died and was not yet collected counts as gone."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end_with_grace(grace: float) -> None:
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        _kill_children()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    _kill_children()
    os._exit(128 + signal.SIGTERM)


def _kill_children() -> None:
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
