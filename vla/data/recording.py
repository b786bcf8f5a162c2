"""One episode as the checks see it: its numbers as they are, its pictures as a few facts.

Frames are decoded in pieces of bounded size and forgotten at once, so that an episode of any length fits. What cannot
be read is noted, not raised: it is the checks that judge.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from vla.errors import DataError
from vla.formats import Recordings, pieces
from vla.terms import DatasetSchema, Range, Steps, Tasks

Looks = Literal["none", "ends", "all"]
"""Which frames of a view are decoded; `ends` means the first, the middle and the last of an episode."""
DARKNESS = 2.0
"""Mean pixel value (of 255) up to which a frame counts as black: what video compression leaves of black."""
Picture = UInt8[np.ndarray, "Y X 3"]


@dataclass(frozen=True, slots=True)
class View:
    """The frames of one view of one episode, in a few facts."""

    error: str = ""
    """Why the frames cannot be decoded; what follows is unknown then, except for `counted`."""
    counted: int | None = None
    """Frames in the episode's own video file, where it has one; no frame is decoded when it is not one per step."""
    size: tuple[int, int] = (0, 0)
    """Rows, columns."""
    is_black: bool = False
    """No decoded frame is brighter than black."""
    is_repeat_N: Bool[np.ndarray, "N"] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """Whether each decoded frame equals the decoded one before it; false for the first."""
    ends: tuple[Picture, ...] = ()
    """The first and the last frame."""

    @classmethod
    def of(cls, frames: Iterable[Picture]) -> Self:
        """The facts of at least one frame."""
        repeats: list[bool] = []
        is_black, first, last = True, None, None
        for frame in frames:
            repeats.append(last is not None and np.array_equal(frame, last))
            is_black = is_black and (repeats[-1] or float(frame.mean()) <= DARKNESS)
            first, last = frame if first is None else first, frame
        if first is None or last is None:
            raise DataError("expected at least one frame, found none")
        # Copies, because a view would keep a whole piece in memory.
        ends = (first.copy(), last.copy())
        return cls(size=first.shape[:2], is_black=is_black, is_repeat_N=np.array(repeats), ends=ends)

    @property
    def is_still(self) -> bool:
        """All decoded frames are equal, and there are at least two."""
        return len(self.is_repeat_N) > 1 and bool(self.is_repeat_N[1:].all())


@dataclass(frozen=True, slots=True)
class Recording:
    """One episode, and what it should be like."""

    schema: DatasetSchema
    """Of the dataset that the episode belongs to."""
    timestamp_tolerance: float
    """How far a step may be from 1 / fps, as a share of it."""
    episode_id: int
    instruction: str
    length: int
    """Steps, according to the metadata."""
    supervised: int | None
    """Steps up to a terminal one; None when the episode was merely cut off."""
    steps: Steps
    error: str = ""
    """Why the numbers cannot be read; `steps` is empty then."""
    ranges: Mapping[str, Range] = field(default_factory=dict)
    """Range of `state` and `actions` by the dataset's own statistics, where it has them."""
    tasks: Tasks | None = None
    """What the metadata and the rows say that it is about, where both do."""
    views: Mapping[str, View] = field(default_factory=dict)
    """Empty when no frame was to be decoded, or when the numbers cannot be used anyway."""
    blocks_K: Int64[np.ndarray, "K"] | None = None
    """Steps at which reading images can begin; None when no image was looked at."""
    faults: tuple[str, ...] = ()
    """What else cannot be read: where reading images can begin, and depth."""


def read_recording(
    data: Recordings, row: Mapping[str, Any], *, schema: DatasetSchema, timestamp_tolerance: float, frames: Looks
) -> Recording:
    """Read the episode of a row of the episode list, and decode its `frames`."""
    keys = ("episode_id", "instruction", "length", "supervised")
    recording = Recording(schema, timestamp_tolerance, **{key: row[key] for key in keys}, steps=_no_steps(schema))
    episode_id = recording.episode_id
    try:
        steps, ranges, tasks = data.steps(episode_id), data.recorded_ranges(episode_id), data.tasks(episode_id)
        recording = replace(recording, steps=steps, ranges=ranges, tasks=tasks)
    except DataError as unreadable:
        return replace(recording, error=str(unreadable))
    if frames == "none" or len(recording.steps) != recording.length:
        return recording
    views = {view: _look(data, recording, view, frames) for view in schema.views}
    blocks_K, faults = None, []
    try:
        # A video that cannot be decoded is no news about its key frames.
        blocks_K = None if any(facts.error for facts in views.values()) else data.block_starts(episode_id)
    except DataError as unreadable:
        faults.append(str(unreadable))
    for view in schema.depth:
        try:
            data.depth(episode_id, view, _ends(recording.length)[0])
        except DataError as undecodable:
            faults.append(f"view {view}, depth: {undecodable}")
    return replace(recording, views=views, blocks_K=blocks_K, faults=tuple(faults))


def _look(data: Recordings, recording: Recording, view: str, frames: Looks) -> View:
    episode_id, length, counted = recording.episode_id, recording.length, None
    try:
        counted = data.frame_count(episode_id, view)
        if counted not in (None, length):
            return View(counted=counted)
        chosen = pieces(length, recording.schema.views[view]) if frames == "all" else _ends(length)
        facts = View.of(frame for steps in chosen for frame in data.images(episode_id, view, steps))
    except DataError as undecodable:
        return View(error=str(undecodable), counted=counted)
    return replace(facts, counted=counted)


def _ends(length: int) -> list[Int64[np.ndarray, "N"]]:
    return [np.unique([0, length // 2, length - 1])]


def _no_steps(schema: DatasetSchema) -> Steps:
    state_TS = np.zeros((0, schema.state_dim), dtype=np.float32)
    actions_TA = np.zeros((0, schema.action_dim), dtype=np.float32)
    return Steps(np.zeros(0), state_TS, actions_TA)
