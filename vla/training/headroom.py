"""Whether the loader keeps up: what it delivers when it makes batches, against what training takes when it has them."""

from collections.abc import Iterable
from dataclasses import dataclass

from vla.tracking.journal import Row

ENOUGH = 1.2


@dataclass(frozen=True, slots=True)
class Headroom:
    """Samples per second, over all workers."""

    delivered: float
    demanded: float
    waited: float
    """Share of the time that training spent waiting for batches all the same."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Headroom | None":
        """From the metrics of a training; None when no row has them.

        The first interval, in which files are opened and buffers filled, counts only where it is the only one.
        """
        intervals, before = [], 0
        for row in rows:
            if "samples_per_s" in row.metrics:
                steps, before = row.step - before, row.step
                if "loader_samples_per_s" in row.metrics:
                    intervals.append((steps, row.metrics))
        if not intervals:
            return None
        counted = intervals[1:] or intervals
        samples = sum(steps for steps, _ in counted)
        making = sum(steps / found["loader_samples_per_s"] for steps, found in counted)
        taking = sum(steps / found["samples_per_s"] for steps, found in counted)
        waiting = sum(steps / found["samples_per_s"] * found["data_wait"] for steps, found in counted)
        return cls(samples / making, samples / (taking - waiting), waiting / taking)

    @property
    def ratio(self) -> float:
        return self.delivered / self.demanded

    def __str__(self) -> str:
        text = (
            f"loader: delivers {self.delivered:.0f} samples/s alone, training takes {self.demanded:.0f} samples/s: "
            f"headroom {self.ratio:.2f}, {self.waited:.0%} of the time spent waiting for data"
        )
        if self.ratio >= ENOUGH:
            return text
        return (
            f"{text}. For more, raise execution.prefetch and, with train.order blocks, execution.decode_threads, "
            f"switch transforms.augment off, or lower transforms.image_size."
        )
