"""Checks of one episode's numbers: whether they can be read, what they are, and when."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32, Float64

from vla.data.checks import Check, check, some
from vla.data.recording import Recording
from vla.terms import Range

ROUNDING = 4
"""Units in the last place by which a float32 may differ from what was recorded of it."""
CHECKS: list[Check[Recording]] = []


@check(CHECKS, "the numeric columns can be read", is_essential=True)
def readable(recording: Recording) -> Iterator[str]:
    if recording.error:
        yield recording.error


@check(CHECKS, "state and actions have the dimensions and the type of the schema", is_essential=True)
def shapes(recording: Recording) -> Iterator[str]:
    steps, described = recording.steps, recording.schema
    rows = len(steps)
    for what, values, dims in (
        ("state", steps.state_TS, described.state_dim),
        ("actions", steps.actions_TA, described.action_dim),
    ):
        if values.shape != (rows, dims) or values.dtype != np.float32:
            yield f"expected {what} float32 [{rows}, {dims}], found {values.dtype} {list(values.shape)}"


@check(CHECKS, "the metadata count as many steps as there are rows", is_essential=True)
def step_count(recording: Recording) -> Iterator[str]:
    if len(recording.steps) != recording.length:
        yield f"expected {recording.length} steps by the metadata, found {len(recording.steps)} rows"


@check(CHECKS, "every state and action is a finite number", is_essential=True)
def finite(recording: Recording) -> Iterator[str]:
    for what, values_TD, names in _quantities(recording):
        wrong_TD = ~np.isfinite(values_TD)
        for dimension in np.flatnonzero(wrong_TD.any(axis=0)).tolist():
            where = np.flatnonzero(wrong_TD[:, dimension])
            yield (
                f"step {where[0]}: expected a finite number for {what} {names[dimension]}, found "
                f"{values_TD[where[0], dimension]} ({len(where)} of {len(values_TD)} steps)"
            )


@check(CHECKS, "numbers lie within the range that the dataset has recorded of them")
def recorded_range(recording: Recording) -> Iterator[str]:
    ranges = recording.ranges
    for what, values_TD, names in _quantities(recording):
        key, other = ("state", "actions") if what == "state" else ("actions", "state")
        if key not in ranges:
            continue
        outside_TD = _outside(values_TD, ranges[key])
        if not outside_TD.any():
            continue
        if other in ranges and _spans(values_TD, ranges[other]):
            yield f"expected the recorded {key}, found the recorded {other}: the columns are swapped"
            continue
        step = int(outside_TD.any(axis=1).argmax())
        dimension = int(outside_TD[step].argmax())
        low_D, high_D = ranges[key]
        steps, dims = (f"{outside_TD.any(axis=axis).sum()} of {values_TD.shape[1 - axis]}" for axis in (1, 0))
        yield (
            f"step {step}: expected {what} {names[dimension]} within the recorded {low_D[dimension]:.6g} to "
            f"{high_D[dimension]:.6g}, found {values_TD[step, dimension]:.6g} ({steps} steps, {dims} dimensions)"
        )


@check(CHECKS, "timestamps begin near 0 and advance by 1 / fps")
def timestamps(recording: Recording) -> Iterator[str]:
    times_T, period = recording.steps.timestamp_T, 1 / recording.schema.fps
    if abs(times_T[0]) > period:
        yield f"step 0: expected seconds since the start of the episode, found {times_T[0]:.10g}"
    with np.errstate(invalid="ignore"):
        gaps = np.diff(times_T)
    # Seconds are stored as float32, whose steps grow with the time: 0.00003 s after 400 s.
    is_right = np.abs(gaps - period) <= recording.timestamp_tolerance * period + _margin(times_T[1:])
    for is_kind, found in (
        (np.isnan(gaps), "no number"),
        (gaps == 0, "the same timestamp"),
        (gaps < 0, "one {0:.4g} s before it"),
        ((gaps > 0) & (gaps < period), "{1:.4g} s"),
        (gaps > period, "a gap of {1:.4g} s"),
    ):
        where = np.flatnonzero(is_kind & ~is_right)
        if len(where):
            gap = float(gaps[where[0]])
            yield (
                f"step {where[0] + 1}: expected a timestamp {period:.4g} s after the one before, found "
                f"{found.format(-gap, gap)} ({len(where)} of {len(gaps)} steps)"
            )


@check(CHECKS, "every episode has an instruction")
def instruction(recording: Recording) -> Iterator[str]:
    if not recording.instruction.strip():
        yield "expected an instruction, found an empty text"


@check(CHECKS, "the rows name tasks that the list of episodes has for their episode")
def task_index(recording: Recording) -> Iterator[str]:
    tasks = recording.tasks
    if tasks and (others := sorted(tasks.in_rows - tasks.listed)):
        listed = some([repr(text) for text in sorted(tasks.listed)])
        yield f"expected rows of the task {listed} as listed, found {some([repr(text) for text in others])}"


@check(CHECKS, "no episode goes on after a terminal step", level="warning")
def after_terminal(recording: Recording) -> Iterator[str]:
    supervised, length = recording.supervised, recording.length
    if supervised is not None and supervised < length:
        yield (
            f"step {supervised}: expected the end after a terminal step, found {length - supervised} of {length} steps "
            f"more: their actions are not supervised"
        )


def _quantities(recording: Recording) -> Iterator[tuple[str, Float32[np.ndarray, "T D"], tuple[str, ...]]]:
    """Word, values and names of the dimensions."""
    steps, described = recording.steps, recording.schema
    yield "state", steps.state_TS, described.state_names
    yield "action", steps.actions_TA, described.action_names


def _margin(values: Float64[np.ndarray, "N"]) -> Float64[np.ndarray, "N"]:
    """What storing values as float32 makes of them."""
    return ROUNDING * np.spacing(np.abs(values).astype(np.float32)).astype(np.float64)


def _outside(values_TD: Float32[np.ndarray, "T D"], recorded: Range) -> Bool[np.ndarray, "T D"]:
    """Which values lie outside a recorded range by more than rounding."""
    low_D, high_D = recorded
    return np.asarray((values_TD < low_D - _margin(low_D)) | (values_TD > high_D + _margin(high_D)))


def _spans(values_TD: Float32[np.ndarray, "T D"], recorded: Range) -> bool:
    """Whether the values have just this range in every dimension."""
    if values_TD.shape[1] != len(recorded[0]):
        return False
    ends = zip((values_TD.min(axis=0), values_TD.max(axis=0)), recorded, strict=True)
    return all(bool((np.abs(found_D - end_D) <= _margin(end_D)).all()) for found_D, end_D in ends)
