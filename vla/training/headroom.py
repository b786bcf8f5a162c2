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

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Headroom | None":
        """From the metrics of a training; None when no row has them."""
        samples, making, using = 0.0, 0.0, 0.0
        before = 0
        for row in rows:
            found = row.metrics
            if "samples_per_s" not in found:
                continue
            steps, before = row.step - before, row.step
            if "loader_samples_per_s" in found:
                samples += steps
                making += steps / found["loader_samples_per_s"]
                using += steps * (1 - found["data_wait"]) / found["samples_per_s"]
        return cls(samples / making, samples / using) if samples else None

    @property
    def ratio(self) -> float:
        return self.delivered / self.demanded

    def __str__(self) -> str:
        text = (
            f"loader: delivers {self.delivered:.0f} samples/s alone, training takes {self.demanded:.0f} samples/s: "
            f"headroom {self.ratio:.2f}"
        )
        if self.ratio >= ENOUGH:
            return text
        return (
            f"{text}. Training waits for data: raise execution.prefetch and, with train.order blocks, "
            f"execution.decode_threads, switch transforms.augment off, or lower transforms.image_size."
        )
