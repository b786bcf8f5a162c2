"""Checks of all sound episodes together: what no single one can show."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool

from vla.data.checks import Check, check, some
from vla.data.sources import SHIFT
from vla.data.survey import Extremes, Quantity, Survey
from vla.normalization import DEGENERATE

SATURATION = 0.25
"""Share of a dimension's actions at one end of its range from which its limit probably cuts the demonstrations."""
DISTANCE = 10.0
"""How far a value lies outside the middle 98 % to be found, in widths of these."""
CHECKS: list[Check[Survey]] = []


@check(CHECKS, "no dimension is constant", level="warning")
def constant_dimension(survey: Survey) -> Iterator[str]:
    for quantity in survey.quantities:
        extremes, names = quantity.extremes, quantity.names
        constant = [f"{names[i]} ({extremes.low[i]:.6g})" for i in np.flatnonzero(is_constant(extremes)).tolist()]
        if constant:
            yield (
                f"{len(constant)} of {len(names)} {quantity.word} dimensions never change, and normalisation maps them "
                f"to 0: {', '.join(constant)}"
            )


@check(CHECKS, f"no value lies {DISTANCE:g} times the width of the middle 98 % outside of it", level="warning")
def outlier(survey: Survey) -> Iterator[str]:
    for quantity in survey.quantities:
        extremes, (low_D, high_D) = quantity.extremes, quantity.middle
        for dimension in np.flatnonzero(has_outliers(quantity)).tolist():
            is_low = low_D[dimension] - extremes.low[dimension] > extremes.high[dimension] - high_D[dimension]
            value, place = (extremes.low, extremes.low_at) if is_low else (extremes.high, extremes.high_at)
            episode_id, step = place[dimension].tolist()
            yield (
                f"{quantity.word} {quantity.names[dimension]} is {value[dimension]:.6g} in {survey.place(episode_id)}, "
                f"step {step}, while 98 % of it lie from {low_D[dimension]:.6g} to {high_D[dimension]:.6g}: quantile "
                f"normalisation makes it huge, min_max leaves the rest no room"
            )


@check(CHECKS, f"less than {SATURATION:.0%} of the actions lie at an end of their range", level="warning")
def action_saturation(survey: Survey) -> Iterator[str]:
    actions = survey.actions.extremes
    # A switch is not cut off by its ends.
    for dimension in np.flatnonzero((actions.saturation >= SATURATION) & ~actions.is_switch).tolist():
        end = "low" if actions.at_low[dimension] > actions.at_high[dimension] else "high"
        yield (
            f"action {survey.actions.names[dimension]} is {getattr(actions, end)[dimension]:.6g}, the {end} end "
            f"of its range, in {actions.saturation[dimension]:.0%} of the steps"
        )


@check(CHECKS, "no recording occurs twice", level="warning")
def duplicate_episode(survey: Survey) -> Iterator[str]:
    # A dataset that is mixed in twice would fill the report with its episodes.
    by_sources: dict[frozenset[int], list[Sequence[int]]] = {}
    for same in survey.repeated():
        by_sources.setdefault(frozenset(episode_id >> SHIFT for episode_id in same), []).append(same)
    for same, *others in by_sources.values():
        count = f", the first of {len(others) + 1} recordings that occur again there" if others else ""
        yield (
            f"{some([survey.place(episode_id) for episode_id in same])} hold equal states and actions{count}: they "
            f"stay on one side of the split"
        )


def is_constant(extremes: Extremes) -> Bool[np.ndarray, "D"]:
    """Dimensions whose range is as small as normalisation treats as none."""
    middle = np.abs(extremes.low + extremes.high) / 2
    return np.asarray(extremes.high - extremes.low <= DEGENERATE * np.maximum(1.0, middle))


def has_outliers(quantity: Quantity) -> Bool[np.ndarray, "D"]:
    """Dimensions in which a value lies far outside the middle 98 %."""
    extremes, (low_D, high_D) = quantity.extremes, quantity.middle
    outside_D = np.maximum(low_D - extremes.low, extremes.high - high_D)
    return np.asarray((outside_D > DISTANCE * (high_D - low_D)) & ~is_constant(extremes))
