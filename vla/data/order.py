"""Which samples a training sees when: a pure function of (seed, step), equal at any number of workers.

Step s takes the places [s * B, (s + 1) * B) of the presentation order; an epoch is the floor(N / B) whole batches of N
presentations. What an epoch presents is all N samples, or, in a mixture with weights, the share of each source, which
goes on through its own permutations from epoch to epoch. How they are ordered:

`full`    one permutation of everything, for data whose decoded frames fit on the disk (vla/data/frames.py).
`blocks`  pieces of episodes (vla/data/pieces.py) are permuted and the sequence is dealt to lanes, each of which fills
          its own places in every batch. Groups of `buffer_steps` samples of a lane are permuted, so a reader decodes a
          group once and holds one group per lane. The price: samples of one group come from few episodes.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int64

from vla import keyed
from vla.data.episodes import EpisodeTable
from vla.data.pieces import Pieces
from vla.errors import ConfigError

OrderName = Literal["full", "blocks"]
LANES, FEWEST_LANES = 64, 16
Samples = Int64[np.ndarray, "N"]


class Order(Protocol):
    """The samples of every step."""

    steps_per_epoch: int

    def samples(self, step: int) -> Samples:
        """The samples of the whole optimizer step, over all ranks and micro-batches."""
        ...


class FullOrder:
    """A permutation of everything per epoch."""

    def __init__(
        self, table: EpisodeTable, *, seed: int, batch_size: int, weights: Mapping[str, float] | None = None
    ) -> None:
        self._seed, self._batch_size = seed, batch_size
        self._count = int(table.length_E.sum())
        self.steps_per_epoch = steps_per_epoch(self._count, batch_size)
        self._presented: list[int] = []
        self._samples_of: list[Samples] = []
        if weights:
            self._presented = presented(table, weights)
            source_N = np.repeat(table.source_E, table.length_E)
            self._samples_of = [np.flatnonzero(source_N == number) for number in range(len(table.sources))]
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def samples(self, step: int) -> Samples:
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[place * self._batch_size : (place + 1) * self._batch_size]

    def _make_epoch(self, epoch: int) -> Samples:
        order = keyed.permutation(self._seed, "order", epoch, count=self._count)
        if not self._presented:
            return order
        drawn = [self._drawn(number, count, epoch) for number, count in enumerate(self._presented)]
        return np.concatenate(drawn)[order]

    def _drawn(self, source: int, count: int, epoch: int) -> Samples:
        """The samples of a source that an epoch presents."""
        samples = self._samples_of[source]
        parts = [
            keyed.permutation(self._seed, "order", source, own, count=len(samples))[begin:end]
            for own, begin, end in own_epochs(len(samples), epoch * count, (epoch + 1) * count)
        ]
        return samples[np.concatenate(parts)]


GroupKey = tuple[int, int, int]
"""Epoch, lane, number of the group in the lane."""


class Part(NamedTuple):
    """Places of a batch that one group of one lane fills: the group's samples [begin, end)."""

    group: GroupKey
    begin: int
    end: int


class BlocksOrder:
    """Permuted pieces, dealt to lanes and shuffled within the groups of a lane."""

    def __init__(
        self,
        table: EpisodeTable,
        *,
        seed: int,
        batch_size: int,
        buffer_steps: int,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._seed, self._batch_size = seed, batch_size
        self._pieces, episode_K = Pieces.of(table)
        self.steps_per_epoch = steps_per_epoch(self._pieces.num_samples, batch_size)
        self._presented: list[int] = []
        self._pieces_of: list[Pieces] = []
        if weights:
            self._presented = presented(table, weights)
            chosen = [np.flatnonzero(table.source_E[episode_K] == number) for number in range(len(table.sources))]
            self._pieces_of = [self._pieces.take(index_K) for index_K in chosen]
        self.lanes = lanes_of(batch_size)
        self.per_lane = batch_size // self.lanes
        """Samples of a lane in every batch."""
        self.group_steps = max(1, buffer_steps // self.per_lane)
        """Steps that a group lasts."""
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._group = lru_cache(maxsize=2 * self.lanes)(self._make_group)

    @property
    def mean_piece(self) -> float:
        """Samples per piece."""
        return self._pieces.num_samples / len(self._pieces)

    def samples(self, step: int) -> Samples:
        parts = self.parts(step, 0, self._batch_size)
        return np.concatenate([self._group(key)[begin:end] for key, begin, end in parts])

    def group(self, key: GroupKey) -> Samples:
        """The samples of a group, in the order in which they are presented."""
        return self._group(key)

    def parts(self, step: int, first: int, last: int) -> Iterator[Part]:
        """What fills the places [first, last) of a step's batch, in order."""
        epoch, at = divmod(step, self.steps_per_epoch)
        while first < last:
            lane = first // self.per_lane
            end = min(last, (lane + 1) * self.per_lane)
            number, since = divmod(at + self._shift(lane), self.group_steps)
            # Steps since the group began, which for the first group of a lane is the epoch's first step.
            steps = since if number else at
            offset = (steps - lane) * self.per_lane
            yield Part((epoch, lane, number), first + offset, end + offset)
            first = end

    def upcoming(self, step: int, first: int, last: int, *, ahead: int) -> list[GroupKey]:
        """The groups, other than those of this step, from which the same places are filled `ahead` steps later.

        Those of the next epoch are not among them.
        """
        epoch, at = divmod(step, self.steps_per_epoch)
        then = min(at + ahead, self.steps_per_epoch - 1)
        lanes = np.arange(first // self.per_lane, (last - 1) // self.per_lane + 1)
        shift_L = lanes * self.group_steps // self.lanes
        number_L = (then + shift_L) // self.group_steps
        changed_L = np.flatnonzero(number_L != (at + shift_L) // self.group_steps)
        return [(epoch, int(lanes[index]), int(number_L[index])) for index in changed_L]

    def _shift(self, lane: int) -> int:
        """Steps by which a lane's groups begin early, so that not all lanes need a new group in the same step."""
        return lane * self.group_steps // self.lanes

    def _span(self, lane: int, number: int) -> tuple[int, int]:
        """The steps of the epoch that a group covers."""
        begin = number * self.group_steps - self._shift(lane)
        return max(0, begin), min(self.steps_per_epoch, begin + self.group_steps)

    def _make_group(self, key: GroupKey) -> Samples:
        epoch, lane, number = key
        begin, end = self._span(lane, number)
        order = keyed.permutation(self._seed, "order", *key, count=(end - begin) * self.per_lane)
        return self._epoch(epoch).samples((lane * self.steps_per_epoch + begin) * self.per_lane + order)

    def _make_epoch(self, epoch: int) -> Pieces:
        drawn = self._pieces
        if self._presented:
            drawn = Pieces.join([self._drawn(number, count, epoch) for number, count in enumerate(self._presented)])
        return drawn.take(keyed.permutation(self._seed, "order", epoch, count=len(drawn)))

    def _drawn(self, source: int, count: int, epoch: int) -> Pieces:
        """The pieces of a source that an epoch presents; those at its ends may be cut."""
        pieces = self._pieces_of[source]
        return Pieces.join(
            [
                pieces.take(keyed.permutation(self._seed, "order", source, own, count=len(pieces))).cut(begin, end)
                for own, begin, end in own_epochs(pieces.num_samples, epoch * count, (epoch + 1) * count)
            ]
        )


def lanes_of(batch_size: int) -> int:
    """The number of lanes: at most 64, but so many that a batch is diverse, and a divisor of the batch.

    Where the number of workers divides the number of lanes, every lane belongs to one worker; else neighbours share
    lanes, and both decode them.
    """
    best = max(count for count in range(1, LANES + 1) if batch_size % count == 0)
    return best if best >= FEWEST_LANES else batch_size


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Whole batches in an epoch; raises ConfigError when there is not one."""
    if count < batch_size:
        raise ConfigError(
            f"train.batch_size: expected at most the {count} samples of the train split, "
            f"found {batch_size}. Lower it or add data."
        )
    return count // batch_size


def presented(table: EpisodeTable, weights: Mapping[str, float]) -> list[int]:
    """How many samples of each source an epoch presents: in proportion to the weights, as many in all as there are.

    A dataset of the mixture that is held out as a whole is not in the table of the train split and has no share.
    """
    share = np.array([weights[name] for name in table.sources])
    exact = share / share.sum() * table.length_E.sum()
    count = np.floor(exact).astype(np.int64)
    # What rounding down has lost goes to the largest remainders.
    count[np.argsort(count - exact, kind="stable")[: int(table.length_E.sum() - count.sum())]] += 1
    if not count.all():
        never = table.sources[int(np.argmin(count))]
        raise ConfigError(
            f"data: expected weights by which an epoch of {table.length_E.sum()} samples presents every dataset, found "
            f"{weights[never]:g} for {never}, less than one sample. Raise it or remove the dataset."
        )
    return [int(number) for number in count]


def own_epochs(count: int, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """The presentations [first, last) of a source of `count` samples, as parts [begin, end) of its own epochs."""
    while first < last:
        own, begin = divmod(first, count)
        end = min(count, begin + last - first)
        yield own, begin, end
        first += end - begin
