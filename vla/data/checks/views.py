"""Checks of one episode's pictures, by the facts that decoding them gave."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32

from vla.data.checks import Check, check
from vla.data.recording import Recording
from vla.normalization import DEGENERATE

STILL_SECONDS, STILL_SHARE = 2.0, 0.3
"""A stretch of equal frames is found from this long, and from this share of its episode."""
MOVEMENT = 0.1
"""Share of a state's range in the episode from which it counts as moving within a stretch."""
CHECKS: list[Check[Recording]] = []


@check(CHECKS, "every view has one frame per step, of the size in the schema", is_essential=True, frames="ends")
def frames(recording: Recording) -> Iterator[str]:
    for view, facts in recording.views.items():
        size = recording.schema.views[view]
        if facts.counted not in (None, len(recording.steps)):
            yield f"view {view}: expected {len(recording.steps)} frames, one per step, found {facts.counted}"
        elif not facts.error and facts.size != tuple(size):
            yield f"view {view}: expected {size[0]}x{size[1]} pixels, found {facts.size[0]}x{facts.size[1]}"


@check(
    CHECKS,
    "every frame that was looked at decodes, and so does depth at the ends and the middle",
    is_essential=True,
    frames="ends",
)
def decodable(recording: Recording) -> Iterator[str]:
    for view, facts in recording.views.items():
        if facts.error:
            yield f"view {view}: {facts.error}"
    yield from recording.faults


@check(CHECKS, "no view is black for a whole episode", frames="ends")
def black_view(recording: Recording) -> Iterator[str]:
    for view, facts in recording.views.items():
        if facts.is_black:
            yield f"view {view}: expected a picture, found black in all {len(facts.is_repeat_N)} frames"


@check(CHECKS, "no view shows one and the same frame for a whole episode", frames="ends")
def frozen_view(recording: Recording) -> Iterator[str]:
    for view, facts in recording.views.items():
        if facts.is_still and not facts.is_black:
            yield f"view {view}: expected a changing picture, found {len(facts.is_repeat_N)} equal frames"


@check(
    CHECKS,
    f"no view stands still for {STILL_SECONDS:g} s and {STILL_SHARE:.0%} of an episode while the state moves",
    level="warning",
    frames="all",
)
def frozen_stretch(recording: Recording) -> Iterator[str]:
    length, state_TS = len(recording.steps), recording.steps.state_TS
    shortest = max(STILL_SECONDS * recording.schema.fps, STILL_SHARE * length)
    for view, facts in recording.views.items():
        for start, stop in _stretches(facts.is_repeat_N):
            if shortest <= stop - start < length and _moves(state_TS, start, stop):
                yield (
                    f"view {view}, step {start}: expected a changing picture while the state moves, found "
                    f"{stop - start} equal frames ({(stop - start) / length:.0%} of the episode)"
                )


def _stretches(is_repeat_N: Bool[np.ndarray, "N"]) -> Iterator[tuple[int, int]]:
    """The longest runs of equal frames, as steps from and to."""
    edges = np.flatnonzero(np.diff(is_repeat_N.astype(np.int8), append=0))
    # A run begins one frame before its first repetition.
    yield from zip(edges[::2].tolist(), (edges[1::2] + 1).tolist(), strict=True)


def _moves(state_TS: Float32[np.ndarray, "T S"], start: int, stop: int) -> bool:
    """Whether a dimension goes through a good part of its range between two steps."""
    range_S = np.ptp(state_TS, axis=0)
    is_used_S = range_S > DEGENERATE * np.maximum(1.0, np.abs(state_TS).max(axis=0))
    return bool((np.ptp(state_TS[start:stop], axis=0)[is_used_S] > MOVEMENT * range_S[is_used_S]).any())
