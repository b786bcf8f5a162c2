"""One worker's micro-batches, made ahead in the background, and how long training waits for them."""

import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

from vla.data.loader import TrainingOrder
from vla.data.prefetch import Prefetch
from vla.execution import ExecutionConfig
from vla.models.policy import Batch
from vla.training.batch_digest import MODULUS, digest
from vla.training.distributed import Context


class Feed:
    """The places of every step's batch that belong to one rank, in micro-batches."""

    def __init__(self, order: TrainingOrder, context: Context, execution: ExecutionConfig, *, steps: int) -> None:
        """`steps`: those of the whole training."""
        size, micro_batch = order.batch_size // context.world_size, execution.micro_batch
        begin, end = context.rank * size, (context.rank + 1) * size
        self._order, self._world_size, self._record = order, context.world_size, execution.record_batches
        self.slices = [(first, min(first + micro_batch, end)) for first in range(begin, end, micro_batch)]
        """Places of each micro-batch in its step's batch."""
        self._prefetch = Prefetch(self._make, ahead=execution.prefetch, end=steps * len(self.slices))
        self._counted = (0, 0.0)
        self.waited = 0.0
        """Seconds that `batches` has waited for a batch."""
        self.digest = 0
        """Sum of the digests of what `batches` has brought of its step so far; 0 unless they are recorded."""

    def batches(self, step: int) -> Iterator[Batch]:
        """The micro-batches of a step, on the CPU; steps are best asked for in ascending order."""
        self.digest = 0
        for micro in range(len(self.slices)):
            started = time.perf_counter()
            batch, found = self._prefetch.get(step * len(self.slices) + micro)
            self.waited += time.perf_counter() - started
            self.digest = (self.digest + found) % MODULUS
            yield batch

    def names(self, step: int, places: Iterable[int]) -> list[str]:
        """The samples at some places of a step's whole batch, for a person."""
        return [name for place in places for name in self._order.names(step, place, place + 1)]

    def uids(self, step: int) -> list[int]:
        """Identities of the samples of a step's whole batch."""
        uids: list[int] = self._order.samples.sample_uid(self._order.sample_indices(step)).tolist()
        return uids

    def placed(self, values: Sequence[float]) -> list[float]:
        """A value for each of this rank's samples at their places in the whole batch, 0 at those of other ranks."""
        placed, begin = [0.0] * self._order.batch_size, self.slices[0][0]
        placed[begin : begin + len(values)] = values
        return placed

    def samples_per_s(self) -> float | None:
        """Samples that all ranks make in a second of making them, since the last call; None when they made none."""
        made, seconds = self._order.made, self._order.seconds
        counted, self._counted = self._counted, (made, seconds)
        if made == counted[0] or seconds == counted[1]:
            return None
        return self._world_size * (made - counted[0]) / (seconds - counted[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._prefetch.close()
        self._order.close()

    def _make(self, number: int) -> tuple[Batch, int]:
        """A micro-batch and its digest, which costs training no time here."""
        step, micro = divmod(number, len(self.slices))
        first, last = self.slices[micro]
        batch = self._order.batch(step, first, last)
        return batch, digest(batch, first=first) if self._record else 0
