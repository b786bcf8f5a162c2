"""What the validate stage learns of all sound episodes together.

Memory grows by some fifty bytes per episode, never with their length: of the numbers only the extremes are kept, and a
fixed number of steps for the plots and the approximate quantiles.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Float64, Int64

from vla.data.recording import Picture, Recording
from vla.terms import DatasetSchema, Steps

PLOTTED_STEPS = 100_000
PICTURED, PICTURE_SIDE = 12, 320
"""Instructions of which pictures are kept, and the size in pixels to which these are about reduced."""
UNKNOWN = -1
"""Count of the blocks of an episode whose images were not looked at."""


@dataclass(slots=True)
class Extremes:
    """Range of each dimension, where its ends occur first, and how many values lie exactly at them."""

    low: Float64[np.ndarray, "D"]
    high: Float64[np.ndarray, "D"]
    at_low: Int64[np.ndarray, "D"]
    at_high: Int64[np.ndarray, "D"]
    low_at: Int64[np.ndarray, "D 2"]
    """Episode id and step."""
    high_at: Int64[np.ndarray, "D 2"]
    count: int = 0

    @classmethod
    def none(cls, dims: int) -> Self:
        zeros_D, zeros_D2 = np.zeros(dims, dtype=np.int64), np.zeros((dims, 2), dtype=np.int64)
        ends = (np.full(dims, np.inf), np.full(dims, -np.inf))
        return cls(*ends, zeros_D, zeros_D.copy(), zeros_D2, zeros_D2.copy())

    def add(self, values_TD: Float32[np.ndarray, "T D"], *, episode_id: int) -> None:
        low, high = np.minimum(self.low, values_TD.min(axis=0)), np.maximum(self.high, values_TD.max(axis=0))
        is_lower, is_higher = low < self.low, high > self.high
        self.at_low = np.where(is_lower, 0, self.at_low) + (values_TD == low).sum(axis=0)
        self.at_high = np.where(is_higher, 0, self.at_high) + (values_TD == high).sum(axis=0)
        for is_new, at, steps in (
            (is_lower, self.low_at, values_TD.argmin(axis=0)),
            (is_higher, self.high_at, values_TD.argmax(axis=0)),
        ):
            at[is_new, 0], at[is_new, 1] = episode_id, steps[is_new]
        self.low, self.high = low, high
        self.count += len(values_TD)

    @property
    def saturation(self) -> Float64[np.ndarray, "D"]:
        """Share of the values that lie exactly at the larger of the two crowds at the ends."""
        return np.maximum(self.at_low, self.at_high) / max(self.count, 1)

    @property
    def is_switch(self) -> Bool[np.ndarray, "D"]:
        """Dimensions that only ever take their two ends, as an open-or-shut gripper does."""
        return np.asarray(self.at_low + self.at_high >= self.count)


@dataclass
class Quantity:
    """State or actions over all episodes."""

    word: str
    names: tuple[str, ...]
    extremes: Extremes
    kept: list[Float32[np.ndarray, "T D"]] = field(default_factory=list)

    @cached_property
    def sample_ND(self) -> Float32[np.ndarray, "N D"]:
        """Evenly chosen steps, at most PLOTTED_STEPS and one; read when all are added."""
        return np.concatenate(self.kept) if self.kept else np.zeros((0, len(self.names)), dtype=np.float32)

    @cached_property
    def middle(self) -> tuple[Float64[np.ndarray, "D"], Float64[np.ndarray, "D"]]:
        """The 1 % and the 99 % quantile of the sample."""
        low_D, high_D = np.quantile(self.sample_ND, [0.01, 0.99], axis=0)
        return low_D, high_D


@dataclass
class Survey:
    """All sound episodes together, in the order of the episode list."""

    every: int
    """Every how many steps one is kept for the plots."""
    state: Quantity
    actions: Quantity
    place: Callable[[int], str]
    """An episode in the words of a message."""
    episode_ids: "array[int]" = field(default_factory=lambda: array("q"))
    contents: list[str] = field(default_factory=list)
    """Digest of each one's state and actions."""
    block_counts: "array[int]" = field(default_factory=lambda: array("i"))
    """How many of `block_starts` are each one's, UNKNOWN for those whose images were not looked at."""
    block_starts: "array[int]" = field(default_factory=lambda: array("i"))
    pictures: dict[tuple[str, str], dict[str, tuple[Picture, ...]]] = field(default_factory=dict)
    """Dataset and instruction -> view -> first and last frame of the first sound episode of both."""

    @classmethod
    def empty(cls, schema: DatasetSchema, *, total_steps: int, place: Callable[[int], str] = str) -> Self:
        return cls(
            max(1, -(-total_steps // PLOTTED_STEPS)),
            Quantity("state", schema.state_names, Extremes.none(schema.state_dim)),
            Quantity("action", schema.action_names, Extremes.none(schema.action_dim)),
            place,
        )

    @property
    def quantities(self) -> tuple[Quantity, Quantity]:
        return self.state, self.actions

    def add(self, recording: Recording) -> None:
        """Add a sound episode."""
        steps, episode_id = recording.steps, recording.episode_id
        first = -self.state.extremes.count % self.every
        for quantity, values_TD in ((self.state, steps.state_TS), (self.actions, steps.actions_TA)):
            quantity.extremes.add(values_TD, episode_id=episode_id)
            if first < len(values_TD):
                # A copy, because a slice would keep the whole episode in memory.
                quantity.kept.append(values_TD[first :: self.every].copy())
        self.episode_ids.append(episode_id)
        self.contents.append(digest_of(steps))
        self.block_counts.append(UNKNOWN if recording.blocks_K is None else len(recording.blocks_K))
        self.block_starts.extend([] if recording.blocks_K is None else recording.blocks_K.tolist())
        key = (recording.schema.name, recording.instruction)
        if recording.views and key not in self.pictures and len(self.pictures) < PICTURED:
            self.pictures[key] = {name: tuple(map(_reduced, view.ends)) for name, view in recording.views.items()}

    def repeated(self) -> Iterator[Sequence[int]]:
        """The ids of episodes of equal contents, where there are several."""
        code_E = pa.array(self.contents, pa.string()).dictionary_encode().indices.to_numpy()
        order_E = np.argsort(code_E, kind="stable")
        ids_E = np.array(self.episode_ids)[order_E]
        edges = np.flatnonzero(np.diff(code_E[order_E], prepend=-1, append=-1))
        for start, stop in pairwise(edges.tolist()):
            if stop - start > 1:
                yield ids_E[start:stop].tolist()


def _reduced(picture: Picture) -> Picture:
    every = -(-max(picture.shape) // PICTURE_SIDE)
    return picture[::every, ::every].copy()


def digest_of(steps: Steps) -> str:
    """Digest of state and actions: equal for recordings that occur twice."""
    digest = hashlib.blake2b(digest_size=16)
    for values in (steps.state_TS, steps.actions_TA):
        digest.update(str(values.shape).encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
