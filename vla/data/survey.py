"""What the validate stage learns from reading every episode once.

`read_episode` gives one episode as the checks see it; `Survey` adds up what can only be judged over all of them. Every
frame is decoded, so that none fails for the first time in training; memory stays within one view of one episode and a
fixed number of values for the plots.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from vla.errors import DataError
from vla.formats import Recordings
from vla.terms import DatasetSchema, Steps

PLOTTED_STEPS = 100_000
PICTURED_INSTRUCTIONS = 12
Picture = UInt8[np.ndarray, "Y X 3"]


@dataclass(frozen=True, slots=True)
class View:
    """The frames of one view of one episode, in a few numbers."""

    error: str = ""
    """Why the frames cannot be decoded; the other fields mean nothing then."""
    frames: int = 0
    size: tuple[int, int] = (0, 0)
    """Rows, columns."""
    brightness: float = 0.0
    """Mean pixel value (0 to 255) of the brightest frame."""
    is_still: bool = False
    """All frames are equal, and there are at least two."""
    ends: tuple[Picture, ...] = ()
    """The first and the last frame."""

    @classmethod
    def of(cls, images: UInt8[np.ndarray, "T Y X 3"]) -> Self:
        if not len(images):
            return cls(size=images.shape[1:3])
        return cls(
            frames=len(images),
            size=images.shape[1:3],
            brightness=float(images.reshape(len(images), -1).mean(axis=1).max()),
            is_still=len(images) > 1 and bool((images == images[0]).all()),
            ends=(images[0].copy(), images[-1].copy()),
        )


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode as the checks see it."""

    episode_id: int
    length: int
    """Steps, according to the metadata."""
    instruction: str
    steps: Steps
    error: str
    """Why the numeric columns cannot be read; `steps` is empty then."""
    views: Mapping[str, View]

    @property
    def content(self) -> str:
        """Digest of state and actions: equal for recordings that occur twice."""
        digest = hashlib.blake2b(digest_size=16)
        for values in (self.steps.state_TS, self.steps.actions_TA):
            digest.update(str(values.shape).encode())
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()


def read_episode(data: Recordings, episode_id: int, length: int, instruction: str) -> Episode:
    """Read and decode an episode; what cannot be read is noted in it, not raised."""
    try:
        steps, error = data.steps(episode_id), ""
    except DataError as unreadable:
        steps, error = _no_steps(data.schema), str(unreadable)
    views = {} if error else {view: _look(data, episode_id, view) for view in data.schema.views}
    return Episode(episode_id, length, instruction, steps, error, views)


def _look(data: Recordings, episode_id: int, view: str) -> View:
    try:
        return View.of(data.images(episode_id, view))
    except DataError as undecodable:
        return View(error=str(undecodable))


def _no_steps(schema: DatasetSchema) -> Steps:
    state_TS = np.zeros((0, schema.state_dim), dtype=np.float32)
    actions_TA = np.zeros((0, schema.action_dim), dtype=np.float32)
    return Steps(np.zeros(0), state_TS, actions_TA)


@dataclass(slots=True)
class Extremes:
    """Range of each dimension and how many values lie exactly at its ends."""

    low: Float64[np.ndarray, "D"]
    high: Float64[np.ndarray, "D"]
    at_low: Int64[np.ndarray, "D"]
    at_high: Int64[np.ndarray, "D"]
    count: int = 0

    @classmethod
    def none(cls, dims: int) -> Self:
        zeros = np.zeros(dims, dtype=np.int64)
        return cls(np.full(dims, np.inf), np.full(dims, -np.inf), zeros, zeros.copy())

    def add(self, values_TD: Float32[np.ndarray, "T D"]) -> None:
        low, high = np.minimum(self.low, values_TD.min(axis=0)), np.maximum(self.high, values_TD.max(axis=0))
        self.at_low = np.where(low == self.low, self.at_low, 0) + (values_TD == low).sum(axis=0)
        self.at_high = np.where(high == self.high, self.at_high, 0) + (values_TD == high).sum(axis=0)
        self.low, self.high = low, high
        self.count += len(values_TD)

    @property
    def saturation(self) -> Float64[np.ndarray, "D"]:
        """Share of the values that lie exactly at the larger of the two crowds at the ends."""
        return np.maximum(self.at_low, self.at_high) / max(self.count, 1)


@dataclass(slots=True)
class Survey:
    """All sound episodes together; memory grows with their number, not with their length."""

    schema: DatasetSchema
    every: int
    """Every how many steps one is kept for the plots."""
    state: Extremes
    actions: Extremes
    contents: dict[int, str] = field(default_factory=dict)
    """Episode id -> digest of its state and actions."""
    plotted_state: list[Float32[np.ndarray, "T S"]] = field(default_factory=list)
    plotted_actions: list[Float32[np.ndarray, "T A"]] = field(default_factory=list)
    pictures: dict[str, dict[str, tuple[Picture, ...]]] = field(default_factory=dict)
    """Instruction -> view -> first and last frame of the instruction's first sound episode."""

    @classmethod
    def empty(cls, schema: DatasetSchema, *, total_steps: int) -> Self:
        every = max(1, -(-total_steps // PLOTTED_STEPS))
        return cls(schema, every, Extremes.none(schema.state_dim), Extremes.none(schema.action_dim))

    def add(self, episode: Episode) -> None:
        steps = episode.steps
        self.state.add(steps.state_TS)
        self.actions.add(steps.actions_TA)
        self.contents[episode.episode_id] = episode.content
        # Copies, because a slice would keep the whole episode in memory.
        self.plotted_state.append(steps.state_TS[:: self.every].copy())
        self.plotted_actions.append(steps.actions_TA[:: self.every].copy())
        if episode.instruction not in self.pictures and len(self.pictures) < PICTURED_INSTRUCTIONS:
            self.pictures[episode.instruction] = {name: view.ends for name, view in episode.views.items()}
