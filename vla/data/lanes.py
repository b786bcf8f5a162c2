"""The samples of the order `blocks`, decoded ahead of time: each lane that a worker draws from has one group in memory.

A group's frames are decoded once, in threads, a little before the group begins. Only the first step of an epoch, or
after a resume, waits. Memory is the lanes' groups, and those being prepared; `execution.cache_bytes` limits it.
"""

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Int64

from vla.data.frames import Frames, channels_first, stored_shape
from vla.data.order import BlocksOrder, GroupKey
from vla.data.samples import Contents, Numbers, Samples, read_numbers
from vla.errors import ConfigError
from vla.formats import Recordings


@dataclass(frozen=True, slots=True)
class Group:
    """Decoded samples in the order of their presentation; steps that several of them observe are there once."""

    numbers: Numbers
    rows_MT: Int64[np.ndarray, "M T"]
    frames: Frames

    @classmethod
    def read(cls, samples: Samples, dataset: Recordings, sample_M: Int64[np.ndarray, "M"]) -> "Group":
        observed_MT = samples.observed(sample_M)
        frames = Frames.decode(samples, dataset, np.unique(observed_MT))
        return cls(read_numbers(samples, dataset, sample_M), frames.rows(observed_MT), frames)


class Lanes:
    """Reads what a worker's batches need; used by one thread at a time, asked for steps in ascending order."""

    def __init__(
        self, order: BlocksOrder, samples: Samples, datasets: Sequence[Recordings], *, limit_bytes: int
    ) -> None:
        """`datasets` are copies of the dataset, one for each thread that decodes."""
        self._order, self._samples = order, samples
        self._ahead = max(1, order.group_steps // order.lanes)
        self._check_memory(limit_bytes)
        self._datasets: queue.SimpleQueue[Recordings] = queue.SimpleQueue()
        for dataset in datasets:
            self._datasets.put(dataset)
        self._threads = len(datasets)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        self._groups: dict[GroupKey, Future[Group]] = {}
        self._current: dict[int, GroupKey] = {}
        self._lock = threading.Lock()
        self._decoding = 0.0
        self.waited = 0.0
        """Seconds that `take` has waited for a group."""

    @property
    def seconds(self) -> float:
        """Time that decoding has taken with all threads at work."""
        return self._decoding / self._threads

    def take(self, step: int, first: int, last: int) -> Contents:
        """The places [first, last) of a step's batch."""
        spec = self._samples.windows.spec
        parts = list(self._order.parts(step, first, last))
        groups = self._wait_for(
            [part.group for part in parts], self._order.upcoming(step, first, last, ahead=self._ahead)
        )
        pixels = np.empty(stored_shape(self._samples, last - first, spec.window_steps), dtype=np.uint8)
        numbers, row = [], 0
        for (_, begin, end), group in zip(parts, groups, strict=True):
            numbers.append(group.numbers.take(slice(begin, end)))
            to = row + end - begin
            stored = group.frames.stored_NVYXC
            np.take(stored, group.rows_MT[begin:end], axis=0, out=pixels[row:to], mode="clip")
            row = to
        return Contents(Numbers.join(numbers), channels_first(pixels))

    def close(self) -> None:
        """Forget everything; waits for the groups that are being decoded."""
        self._pool.shutdown(cancel_futures=True)
        self._groups.clear()

    def _wait_for(self, now: Sequence[GroupKey], later: Sequence[GroupKey]) -> list[Group]:
        """The groups needed now; has those needed later prepared, and forgets what their lanes no longer need."""
        for key in (*now, *later):
            if key not in self._groups:
                self._groups[key] = self._pool.submit(self._read, key)
        for key in now:
            if self._current.get(key[1]) != key:
                self._current[key[1]] = key
                for other in [other for other in self._groups if other[1] == key[1] and other not in (key, *later)]:
                    self._groups.pop(other).cancel()
        started = time.perf_counter()
        groups = [self._groups[key].result() for key in now]
        self.waited += time.perf_counter() - started
        return groups

    def _read(self, key: GroupKey) -> Group:
        dataset = self._datasets.get()
        try:
            started = time.perf_counter()
            group = Group.read(self._samples, dataset, self._order.group(key))
            with self._lock:
                self._decoding += time.perf_counter() - started
            return group
        finally:
            self._datasets.put(dataset)

    def _check_memory(self, limit_bytes: int) -> None:
        order, spec = self._order, self._samples.windows.spec
        # The steps that a piece's samples observe: its own, and those before its first step.
        before = (spec.window_steps - 1) * min(spec.step_stride, order.mean_piece)
        steps = order.group_steps * order.per_lane * (1 + before / order.mean_piece)
        groups = order.lanes + ceil(order.lanes * self._ahead / order.group_steps)
        size = int(groups * steps) * int(np.prod(stored_shape(self._samples)))
        if size > limit_bytes:
            raise ConfigError(
                f"execution.cache_bytes: expected room for {size:,} bytes of decoded frames (all workers' "
                f"{order.lanes} lanes), found {limit_bytes:,}. Lower train.buffer_steps or transforms.image_size, or "
                f"raise it where there is so much memory."
            )
