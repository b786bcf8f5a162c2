"""The checks of the validate stage: one function each, which yields a message for every fault that it finds.

A check lands in one of three lists by what it looks at: the dataset as a whole, one episode, or the survey of all
sound episodes. Adding a check is adding a function; its name and its promise appear in the report by themselves.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from vla.data.survey import Episode, Extremes, Survey
from vla.normalization import DEGENERATE
from vla.terms import DatasetSchema

Level = Literal["error", "warning"]
DARKNESS = 2.0
"""Mean pixel value (of 255) up to which a frame counts as black: what video compression leaves of black."""
SATURATION = 0.25
"""Share of a dimension's actions at one end of its range from which its limit probably cuts the demonstrations."""
NAMED = 8
"""Names that a message lists before it counts the rest."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault."""

    check: str
    episode_id: int | None
    """None when the dataset as a whole is meant."""
    message: str
    level: Level


@dataclass(frozen=True, slots=True)
class Listing:
    """What is known of a dataset before any episode is read."""

    schema: DatasetSchema
    episodes: pa.Table
    unlisted: tuple[str, ...]
    """Files that the episodes lie in and that no manifest lists."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One episode, and what it should be like."""

    episode: Episode
    schema: DatasetSchema
    timestamp_tolerance: float
    """How far a step may be from 1 / fps, as a share of it."""


S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """A named check of a subject."""

    name: str
    promise: str
    """What holds when nothing is found."""
    level: Level
    is_essential: bool
    """Nothing can be done with a subject that fails: it ends the subject's checks and cannot be made a warning."""
    faults: Callable[[S], Iterator[str]]


DATASET_CHECKS: list[Check[Listing]] = []
EPISODE_CHECKS: list[Check[Recording]] = []
SURVEY_CHECKS: list[Check[Survey]] = []
Faults = Callable[[S], Iterator[str]]


def check(
    checks: list[Check[S]], promise: str, *, level: Level = "error", is_essential: bool = False
) -> Callable[[Faults[S]], Faults[S]]:
    """Add the decorated function to a list of checks under its own name."""

    def add(faults: Faults[S]) -> Faults[S]:
        checks.append(Check(faults.__name__, promise, level, is_essential, faults))
        return faults

    return add


def judge(
    checks: Iterable[Check[S]], subject: S, *, episode_id: int | None = None, warn_only: Iterable[str] = ()
) -> Iterator[Finding]:
    """What the checks find in a subject; those named in `warn_only` find warnings."""
    for item in checks:
        level: Level = "warning" if item.name in warn_only else item.level
        found = [Finding(item.name, episode_id, fault, level) for fault in item.faults(subject)]
        yield from found
        if found and item.is_essential:
            return


# The dataset as a whole.


@check(DATASET_CHECKS, "every dimension and view has a name of its own, and rates and sizes are positive")
def schema(listing: Listing) -> Iterator[str]:
    described = listing.schema
    if not described.fps > 0:
        yield f"expected a positive fps, found {described.fps:g}"
    for what, names in (("state", described.state_names), ("action", described.action_names)):
        if not names:
            yield f"expected at least one {what} dimension, found none"
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            yield f"expected distinct {what} names, found {_some(repeated)} more than once"
    if not described.views:
        yield "expected at least one view, found none"
    for view, size in described.views.items():
        if min(size) < 1:
            yield f"view {view}: expected a positive image size, found {size[0]}x{size[1]}"


@check(DATASET_CHECKS, "episode ids are distinct and every episode has steps")
def episode_list(listing: Listing) -> Iterator[str]:
    ids = listing.episodes["episode_id"].to_numpy()
    lengths = listing.episodes["length"].to_numpy()
    if not len(ids):
        yield "expected at least one episode, found none"
    distinct, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        yield f"expected distinct episode ids, found {_some(distinct[counts > 1])} more than once"
    if (lengths < 1).any():
        yield f"expected at least one step per episode, found none in {_some(ids[lengths < 1])}"


@check(DATASET_CHECKS, "every file that holds episodes is listed in the manifest")
def files(listing: Listing) -> Iterator[str]:
    if listing.unlisted:
        yield (
            f"expected the manifest to list every data file, missing {_some(listing.unlisted)}: run "
            f"'dvc repro -f -s download'"
        )


# One episode.


@check(EPISODE_CHECKS, "the numeric columns can be read", is_essential=True)
def readable(recording: Recording) -> Iterator[str]:
    if recording.episode.error:
        yield recording.episode.error


@check(EPISODE_CHECKS, "state and actions have the dimensions and the type of the schema", is_essential=True)
def shapes(recording: Recording) -> Iterator[str]:
    steps, described = recording.episode.steps, recording.schema
    rows = len(steps.timestamp_T)
    for what, values, dims in (
        ("state", steps.state_TS, described.state_dim),
        ("actions", steps.actions_TA, described.action_dim),
    ):
        if values.shape != (rows, dims) or values.dtype != np.float32:
            yield f"expected {what} float32 [{rows}, {dims}], found {values.dtype} {list(values.shape)}"


@check(EPISODE_CHECKS, "the metadata count as many steps as there are rows", is_essential=True)
def step_count(recording: Recording) -> Iterator[str]:
    episode = recording.episode
    if len(episode.steps) != episode.length:
        yield f"expected {episode.length} steps by the metadata, found {len(episode.steps)} rows"


@check(EPISODE_CHECKS, "every state and action is a finite number", is_essential=True)
def finite(recording: Recording) -> Iterator[str]:
    steps, described = recording.episode.steps, recording.schema
    for what, values_TD, names in (
        ("state", steps.state_TS, described.state_names),
        ("action", steps.actions_TA, described.action_names),
    ):
        wrong_TD = ~np.isfinite(values_TD)
        for dimension in np.flatnonzero(wrong_TD.any(axis=0)).tolist():
            where = np.flatnonzero(wrong_TD[:, dimension])
            yield (
                f"step {where[0]}: expected a finite number for {what} {names[dimension]}, found "
                f"{values_TD[where[0], dimension]} ({len(where)} of {len(values_TD)} steps)"
            )


@check(EPISODE_CHECKS, "every frame of every view decodes", is_essential=True)
def decodable(recording: Recording) -> Iterator[str]:
    for view, facts in recording.episode.views.items():
        if facts.error:
            yield f"view {view}: {facts.error}"


@check(EPISODE_CHECKS, "every view has one frame per step, of the size in the schema", is_essential=True)
def frames(recording: Recording) -> Iterator[str]:
    rows = len(recording.episode.steps)
    for view, facts in recording.episode.views.items():
        size = recording.schema.views[view]
        if facts.frames != rows:
            yield f"view {view}: expected {rows} frames, one per step, found {facts.frames}"
        if facts.size != tuple(size):
            yield f"view {view}: expected {size[0]}x{size[1]} pixels, found {facts.size[0]}x{facts.size[1]}"


@check(EPISODE_CHECKS, "timestamps advance by 1 / fps")
def timestamps(recording: Recording) -> Iterator[str]:
    times_T, period = recording.episode.steps.timestamp_T, 1 / recording.schema.fps
    gaps = np.diff(times_T)
    # The negated comparison also catches NaN.
    wrong = np.flatnonzero(~(np.abs(gaps - period) <= recording.timestamp_tolerance * period))
    if len(wrong):
        first = wrong[0]
        yield (
            f"step {first + 1}: expected a timestamp {period:.4g} s after the one before, found {gaps[first]:.4g} s "
            f"({len(wrong)} of {len(gaps)} steps)"
        )


@check(EPISODE_CHECKS, "every episode has an instruction")
def instruction(recording: Recording) -> Iterator[str]:
    if not recording.episode.instruction.strip():
        yield "expected an instruction, found an empty text"


@check(EPISODE_CHECKS, "no view is black for a whole episode")
def black_view(recording: Recording) -> Iterator[str]:
    for view, facts in recording.episode.views.items():
        if facts.brightness <= DARKNESS:
            yield f"view {view}: expected a picture, found black in all {facts.frames} frames"


@check(EPISODE_CHECKS, "no view shows one and the same frame for a whole episode")
def frozen_view(recording: Recording) -> Iterator[str]:
    for view, facts in recording.episode.views.items():
        if facts.is_still and facts.brightness > DARKNESS:
            yield f"view {view}: expected a changing picture, found {facts.frames} equal frames"


# All sound episodes together.


@check(SURVEY_CHECKS, "no dimension is constant", level="warning")
def constant_dimension(survey: Survey) -> Iterator[str]:
    described = survey.schema
    for what, extremes, names in (
        ("state", survey.state, described.state_names),
        ("action", survey.actions, described.action_names),
    ):
        for dimension in np.flatnonzero(is_constant(extremes)).tolist():
            yield f"{what} {names[dimension]} is always {extremes.low[dimension]:.6g}: normalisation maps it to 0"


@check(SURVEY_CHECKS, f"less than {SATURATION:.0%} of the actions lie at an end of their range", level="warning")
def action_saturation(survey: Survey) -> Iterator[str]:
    actions = survey.actions
    # A dimension that only ever takes its two ends, as an open-or-shut gripper does, is not cut off by them.
    is_switch = actions.at_low + actions.at_high >= actions.count
    for dimension in np.flatnonzero((actions.saturation >= SATURATION) & ~is_switch).tolist():
        end = "low" if actions.at_low[dimension] > actions.at_high[dimension] else "high"
        yield (
            f"action {survey.schema.action_names[dimension]} is {getattr(actions, end)[dimension]:.6g}, the {end} end "
            f"of its range, in {actions.saturation[dimension]:.0%} of the steps"
        )


@check(SURVEY_CHECKS, "no recording occurs twice", level="warning")
def duplicate_episode(survey: Survey) -> Iterator[str]:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for episode_id, content in survey.contents.items():
        groups[content].append(episode_id)
    for same in groups.values():
        if len(same) > 1:
            yield f"episodes {_some(same)} hold equal states and actions: they stay on one side of the split"


def is_constant(extremes: Extremes) -> Bool[np.ndarray, "D"]:
    """Dimensions whose range is as small as normalisation treats as none."""
    middle = np.abs(extremes.low + extremes.high) / 2
    return np.asarray(extremes.high - extremes.low <= DEGENERATE * np.maximum(1.0, middle))


def _some(items: Iterable[object]) -> str:
    """The first few items and how many more there are."""
    texts = [str(item) for item in items]
    rest = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + rest
