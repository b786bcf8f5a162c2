"""What a person sees of a training: a bar, and one line per interval, read from the journal.

The process that started the workers follows the file that the writer appends to, so the picture is the same under
every launcher and the workers print nothing.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from tqdm import tqdm

from vla.periodic import repeated
from vla.tracking.journal import Row, Tail
from vla.training.headroom import ENOUGH, Headroom
from vla.training.self_checks import read_findings
from vla.training.state_directory import StateDirectory

log = logging.getLogger(__name__)
POLL_S = 0.5
INTERVALS = 2
"""Rows of metrics after which it is clear whether the loader keeps up; files are opened in the first."""
PLAIN = (
    "loss",
    "validation_loss",
    "validation_error",
    "lr",
    "grad_norm",
    "loss_scale",
    "skipped_steps",
)
"""Metrics that are shown under their own names, in this order."""


@contextmanager
def shown(directory: StateDirectory, *, total_steps: int) -> Iterator[None]:
    """Show the self-checks and the rows that are added to the journal while the block runs."""
    progress = _Progress(directory, total_steps)
    try:
        with repeated(progress.update, every_s=POLL_S, name="progress"):
            yield
    finally:
        progress.bar.close()


class _Progress:
    """The bar, and which rows were shown: a resume writes the rows after its checkpoint again."""

    def __init__(self, directory: StateDirectory, total_steps: int) -> None:
        self.checks = directory.self_checks
        self.checks_made = self._checks_made()
        self.tail = Tail(directory.journal)
        self.total_steps = total_steps
        self.intervals: list[Row] = []
        self.shown = {(row.step, frozenset(row.metrics)) for row in self.tail.new_rows()}
        done = max((step for step, _ in self.shown), default=0)
        self.bar = tqdm(total=total_steps, initial=done, desc="train", unit="step", disable=None, leave=False)

    def update(self) -> None:
        if self._checks_made() != self.checks_made:
            self.checks_made = self._checks_made()
            for finding in read_findings(self.checks):
                log.log(logging.WARNING if finding.warning else logging.INFO, "%s", finding)
        for row in self.tail.new_rows():
            key = (row.step, frozenset(row.metrics))
            if key not in self.shown:
                self.shown.add(key)
                self.bar.update(max(0, row.step - self.bar.n))
                with tqdm.external_write_mode():
                    log.info("%s", line(row, total_steps=self.total_steps))
                    self._warn_of_loader(row)

    def _warn_of_loader(self, row: Row) -> None:
        """Say once, as soon as two intervals tell, that training waits for the loader."""
        if "loader_samples_per_s" in row.metrics:
            self.intervals.append(row)
            headroom = Headroom.of(self.intervals)
            if len(self.intervals) == INTERVALS and headroom is not None and headroom.ratio < ENOUGH:
                log.warning("%s", headroom)

    def _checks_made(self) -> int:
        """When the self-checks were written; a resume writes them again."""
        return self.checks.stat().st_mtime_ns if self.checks.is_file() else 0


def line(row: Row, *, total_steps: int) -> str:
    """`step 200/3000  loss 0.4321  ...`: what a person looks at, in four significant digits; the journal has more."""
    shown = [f"{name} {row.metrics[name]:.4g}" for name in PLAIN if name in row.metrics]
    if "samples_per_s" in row.metrics:
        shown.append(f"{row.metrics['samples_per_s']:.4g} samples/s")
    if "data_wait" in row.metrics:
        shown.append(f"waiting for data {row.metrics['data_wait']:.0%}")
    if "memory_bytes" in row.metrics:
        shown.append(f"memory {row.metrics['memory_bytes'] / 1e9:.2f} GB")
    if "mfu" in row.metrics:
        shown.append(f"MFU {row.metrics['mfu']:.1%}")
    left = total_steps - row.step
    if left and "steps_per_s" in row.metrics:
        shown.append(f"left {timedelta(seconds=round(left / row.metrics['steps_per_s']))}")
    return "  ".join([f"step {row.step}/{total_steps}", *shown])
