"""What a training measures of itself between two log lines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from vla.training.objective import TIME_BINS


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimizer step was like."""

    loss: float
    """Of the whole batch."""
    grad_norm: float
    """Before clipping; not finite where it has overflowed and the step was skipped."""
    data_seconds: float
    """Spent waiting for this rank's batches."""
    seconds: float
    """Spent on all of it."""
    stop: bool
    """Whether a rank was asked to stop; all ranks see the same."""
    by_time: Sequence[float]
    """Of the whole batch: weighted errors in each range of flow time, then the weights."""
    batch_digest: int = 0
    """Of the whole batch (vla/training/batch_digest.py); 0 unless execution.record_batches."""


@dataclass(slots=True)
class Interval:
    """Sums over the steps since the last row of metrics; a checkpoint keeps them, so that a resume goes on adding."""

    steps: int = 0
    loss: float = 0.0
    norms: int = 0
    """Steps with a finite gradient."""
    grad_norm: float = 0.0
    data_seconds: float = 0.0
    seconds: float = 0.0
    by_time: list[float] = field(default_factory=lambda: [0.0] * 2 * TIME_BINS)

    def add(self, step: Step) -> None:
        self.steps += 1
        self.loss += step.loss
        if math.isfinite(step.grad_norm):
            self.norms += 1
            self.grad_norm += step.grad_norm
        self.data_seconds += step.data_seconds
        self.seconds += step.seconds
        self.by_time = [total + value for total, value in zip(self.by_time, step.by_time, strict=True)]

    def metrics(self, *, batch_size: int) -> dict[str, float]:
        return {
            "loss": self.loss / self.steps,
            **({"grad_norm": self.grad_norm / self.norms} if self.norms else {}),
            "samples_per_s": self.steps * batch_size / self.seconds,
            "steps_per_s": self.steps / self.seconds,
            "data_wait": self.data_seconds / self.seconds,
            **self._losses_by_time(),
        }

    def _losses_by_time(self) -> dict[str, float]:
        """Mean error in each range of flow time that had an action; their mean by weight is the mean of all."""
        errors, weights = self.by_time[:TIME_BINS], self.by_time[TIME_BINS:]
        means = enumerate(zip(errors, weights, strict=True))
        return {f"loss_time/{number}": error / weight for number, (error, weight) in means if weight}
