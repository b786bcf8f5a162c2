"""What the end of a worker's process says, in words: the signal's name, its usual cause and what to do."""

import signal

AGAIN = "'dvc repro' continues from the last checkpoint."
ADVICE = {
    signal.SIGKILL: "Most often the machine has run out of memory ('dmesg' names the process): lower "
    "execution.workers, execution.prefetch, execution.micro_batch or, with train.order blocks, execution.cache_bytes.",
    signal.SIGBUS: "Most often /dev/shm or the disk below a mapped file is full ('df -h /dev/shm'): free some space.",
    signal.SIGSEGV: "A library has crashed; the worker's log has the stacks of its threads. Look there which one, and "
    "try another version of it.",
    signal.SIGABRT: "A library has given up, such as NCCL after execution.timeout_s without an answer; its message is "
    "above.",
    signal.SIGILL: "A library was built for another kind of processor: install it anew on this machine.",
}
"""Signal -> its usual cause. SIGTERM is missing: a launcher sends it to the workers that are left."""


def signal_of(exit_code: int) -> signal.Signals | None:
    """The signal that ended a process, by its exit code as a child of Python (-9) or of a shell (137)."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    return signal.Signals(number) if number in {item.value for item in signal.Signals} else None


def explained(rank: int, exit_code: int, *, logs: str) -> str:
    """One message about a worker that did not finish."""
    found = signal_of(exit_code)
    end = f"exit code {exit_code}" if found is None else f"one ended by {found.name}"
    advice = "Its traceback is above." if found is None else ADVICE.get(found, "Somebody has ended it.")
    return f"rank {rank}: expected a worker that finishes, found {end}. {advice} Its log is in {logs}. {AGAIN}"
