"""kill -9 of trainings at random moments and file operations, each gone on from, until all end with the right bits.

    OMP_NUM_THREADS=1 python tests/kills.py --kills 1000 [--seed 0]

A toy training is killed over and over until it has come to its end; then the next one is. Each must show what one
that nobody disturbed does: weights, summary and every metric that is no time. Between the tries the checkpoint cadence,
the prefetch and the number of kept checkpoints change, which decide no number.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import forks
from forks import Plan
from projects import a_job, a_project, write_params

from vla.training import checkpoint
from vla.training.job import Job

KINDS: Mapping[str, Mapping[str, Any]] = {
    "float32": {"train.order": "full"},
    "float16": {"train.order": "blocks", "train.buffer_steps": 6, "train.precision": "float16"},
}
"""Trainings that take turns."""
TRAINING = {
    "train.validation_actions": 0,
    "train.best": {"metric": "validation_loss", "every": 4},
    "execution.record_batches": True,
}
OPERATIONS = 400
"""About as many as a whole training makes that saves every third step, counted as in `interruptions`."""
NEVER = -1


@dataclass
class Tally:
    """What the kills came to."""

    kills: Counter[str] = field(default_factory=Counter)
    """Kind of moment -> how many."""
    went_on_from: Counter[int] = field(default_factory=Counter)
    """Step of the newest checkpoint after a kill -> how often; `NEVER` where only the end was missing."""
    trainings: int = 0
    different: list[int] = field(default_factory=list)
    """Numbers of the trainings that ended otherwise than an undisturbed one."""


class Kills:
    """Kills of trainings in `root`, decided by `seed`."""

    def __init__(self, root: Path, *, seed: int) -> None:
        self.root, self.tally = a_project(root), Tally()
        self._random = random.Random(seed)
        self._expected, seconds = {}, []
        for kind in KINDS:
            started, job = time.monotonic(), self._job(kind, f"undisturbed-{kind}")
            forks.finish(job)
            seconds.append(time.monotonic() - started)
            self._expected[kind] = forks.result(job)
        self._seconds = min(seconds)

    def until(self, count: int, *, report: Callable[[Tally], None] = lambda _tally: None) -> Tally:
        """Kill until there were `count`, then let the last training end."""
        tally = self.tally
        while tally.kills.total() < count:
            kind = list(KINDS)[tally.trainings % len(KINDS)]
            while not self._try(kind, doomed=tally.kills.total() < count):
                pass
            job = self._job(kind, "killed")
            if forks.result(job) != self._expected[kind]:
                tally.different.append(tally.trainings)
            tally.trainings += 1
            shutil.rmtree(job.state)
            report(tally)
        return tally

    def _try(self, training: str, *, doomed: bool) -> bool:
        """One start; returns whether the training has come to its end."""
        job, draw = self._job(training, "killed"), self._random
        # The rarer kind: on a machine that has become faster most trainings end before their moment comes.
        rarer = min(("moment", "operation"), key=lambda kind: (self.tally.kills[kind], draw.random()))
        kind = rarer if doomed else "none"
        operation = draw.randint(1, OPERATIONS) if kind == "operation" else None
        workers = forks.start(job, Plan(operation=operation))
        if kind == "moment":
            workers[0].join(draw.uniform(0, self._seconds))
            forks.kill(workers)
        code = forks.end(workers)
        if code == 0:
            return True
        assert code == -signal.SIGKILL, f"exit code {code}"
        state = job.state_directory
        self.tally.kills[kind] += 1
        self.tally.went_on_from[NEVER if state.done.is_file() else checkpoint.last_step(state.checkpoints)] += 1
        return False

    def _job(self, kind: str, name: str) -> Job:
        draw = self._random
        cadences = {
            "execution.checkpoint_every": draw.randint(1, 3),
            "execution.keep_checkpoints": draw.randint(1, 3),
            "execution.prefetch": draw.randint(0, 2),
        }
        write_params(self.root, {**TRAINING, **KINDS[kind], **cadences})
        return a_job(self.root, state=self.root / name, frames=self.root / "frames")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    words, started = parser.parse_args(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = Kills(Path(folder) / "project", seed=words.seed).until(words.kills, report=show)
    show(tally)
    places = ", ".join(f"{step}: {count}" for step, count in sorted(tally.went_on_from.items()))
    sys.stdout.write(f"\nwent on from the checkpoint of step ({NEVER}: only the end was missing): {places}\n")
    sys.stdout.write(f"{time.monotonic() - started:.0f} s\n")
    return 1 if tally.different else 0


def show(tally: Tally) -> None:
    kinds = ", ".join(f"{count} at a random {kind}" for kind, count in sorted(tally.kills.items()))
    ends = f"{tally.trainings} trainings, {len(tally.different)} of them different"
    sys.stdout.write(f"\r{tally.kills.total()} kills ({kinds}); {ends}")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
