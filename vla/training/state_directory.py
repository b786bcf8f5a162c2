"""The state directory of a training run: `.vla/state/<fingerprint>` of the main checkout.

It is keyed by what decides the numbers, so an interrupted training is found again by the next `dvc repro`, in the
checkout as in an experiment's workspace, and a training with other parameters never meets it.

    checkpoints/  metrics.jsonl  bundle/  state.json  logs/
    and, when it applies:  done.json  stop  preempted.json  failure.json
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vla import artifacts
from vla.errors import CheckpointError, DataError

SCHEMA = 2
RESUME_OTHER_CODE = "VLA_RESUME_OTHER_CODE"
UNKNOWN = "an unknown process"


@dataclass(frozen=True, slots=True)
class Identity:
    """What decides the numbers of a training."""

    params: Mapping[str, Any]
    """The tracked sections of params.yaml."""
    inputs: Mapping[str, str]
    """Artifact -> digest."""
    code: str
    """Digest of the training code."""

    @property
    def work(self) -> str:
        """Digest of parameters and inputs, whatever the code."""
        return artifacts.digest_of_value([SCHEMA, dict(self.params), dict(self.inputs)])

    @property
    def fingerprint(self) -> str:
        return artifacts.digest_of_value([self.work, self.code])[:32]


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """Paths and locks of one training's state."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def journal(self) -> Path:
        """Metrics, one JSON row per line."""
        return self.path / "metrics.jsonl"

    @property
    def bundle(self) -> Path:
        """The finished policy."""
        return self.path / "bundle"

    @property
    def done(self) -> Path:
        """Summary of a finished training; exists only when `bundle` is complete."""
        return self.path / "done.json"

    @property
    def stop(self) -> Path:
        """Exists while somebody asks the run to stop after a checkpoint."""
        return self.path / "stop"

    @property
    def preempted(self) -> Path:
        """Written by the workers when they have stopped on request, after their checkpoint."""
        return self.path / "preempted.json"

    @property
    def self_checks(self) -> Path:
        """What the workers found before they began to train."""
        return self.path / "self_checks.json"

    @property
    def logs(self) -> Path:
        """A file of each worker's own words."""
        return self.path / "logs"

    @property
    def heartbeat(self) -> Path:
        """Rewritten every second by the process that started the workers."""
        return self.path / "heartbeat"

    @property
    def failure(self) -> Path:
        """The user error that ended a worker, for the process that started it."""
        return self.path / "failure.json"

    @classmethod
    def find(cls, root: Path, identity: Identity) -> tuple[Self, Self | None]:
        """The state directory of `identity` below `root`, to be described, and an unfinished one of other code.

        With VLA_RESUME_OTHER_CODE=1 such a state is the one that is returned.
        """
        own = cls(root / identity.fingerprint)
        if own.path.exists():
            return own, None
        others = [state for state in cls.all(root) if not state.done.is_file() and state.is_of(identity)]
        other = others[-1] if others else None
        if other is not None and may_resume_other_code():
            return other, None
        return own, other

    @classmethod
    def all(cls, root: Path) -> list[Self]:
        """Every state directory below `root`, the one that was begun last at the end."""
        begun = sorted(root.glob("[!.]*/state.json"), key=lambda file: file.stat().st_mtime)
        return [cls(file.parent) for file in begun]

    def describe(self, identity: Identity) -> Self:
        """Create the directory and write down what it belongs to."""
        if not (self.path / "state.json").is_file():
            values = {"work": identity.work, "code": identity.code, "params": dict(identity.params)}
            artifacts.write_json(self.path / "state.json", {**values, "inputs": dict(identity.inputs)})
        return self

    def is_of(self, identity: Identity) -> bool:
        """Whether the parameters and inputs are those of `identity`; not when state.json is damaged."""
        try:
            return bool(self.described("work") == identity.work)
        except DataError:
            return False

    def described(self, key: str) -> Any:
        """One value of state.json."""
        return artifacts.read_json(self.path / "state.json", made_by="vla train")[key]

    @contextmanager
    def hold(self, role: str, *, wait_s: float = 60.0) -> Iterator[None]:
        """Hold the lock `<role>.lock`; after `wait_s` raise CheckpointError that says who holds it.

        The lock is the kernel's, so it goes with its holder, however that ends. Raises CheckpointError too when the
        directory was removed meanwhile: the lock would then keep nobody out.
        """
        file = self.path / f"{role}.lock"
        with file.open("a+") as lock:
            deadline = time.monotonic() + wait_s
            while not _try_lock(lock.fileno()):
                if time.monotonic() > deadline:
                    lock.seek(0)
                    raise CheckpointError(
                        f"{self.path}: expected no other training of the same parameters, found one held by "
                        f"{lock.read().strip() or UNKNOWN}. Wait for it or stop it."
                    )
                time.sleep(0.2)
            if not _is_still_at(file, lock.fileno()):
                raise CheckpointError(
                    f"{self.path}: expected the state of this training, found that another process has removed it. "
                    f"Run the same command again."
                )
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield

    def holder(self) -> str | None:
        """The process that holds a lock of this directory, in words; None when none does."""
        for file in self.path.glob("*.lock"):
            with file.open("a+") as lock:
                if not _try_lock(lock.fileno()):
                    lock.seek(0)
                    return lock.read().strip() or UNKNOWN
        return None

    def is_free(self) -> bool:
        """Whether no process holds a lock of this directory."""
        return self.holder() is None

    def remove(self) -> bool:
        """Remove the directory unless a process holds it; returns whether it was removed.

        It gets another name while its locks are held, so that a training that begins meanwhile makes a new one.
        """
        with ExitStack() as held:
            if not self._try_all(held):
                return False
            artifacts.remove_directory(self.path)
        return True

    def remove_finished_others(self) -> None:
        """Remove the done states of other trainings beside this one, except those in use."""
        for other in self.all(self.path.parent):
            if other != self and other.done.is_file():
                other.remove()

    def _try_all(self, held: ExitStack) -> bool:
        """Take every lock of this directory until `held` is closed, if nobody else has one."""
        files = list(self.path.glob("*.lock"))
        locks = [held.enter_context(file.open("a+")).fileno() for file in files]
        return all(_try_lock(lock) and _is_still_at(file, lock) for file, lock in zip(files, locks, strict=True))

    def summary(self) -> dict[str, Any]:
        """Contents of done.json."""
        values: dict[str, Any] = artifacts.read_json(self.done, made_by="vla train")
        return values


def may_resume_other_code() -> bool:
    """Whether the user has asked to continue trainings that other code began."""
    return os.environ.get(RESUME_OTHER_CODE) == "1"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still_at(file: Path, descriptor: int) -> bool:
    """Whether an open file is what others would open: the lock of a removed one says nothing to them."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
