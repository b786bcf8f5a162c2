"""The figures that policies are compared by: error ratios of predicted chunks, intervals of success rates."""

import math
from collections.abc import Mapping

from vla.action_errors import ActionScale, ErrorSums
from vla.errors import DataError

Z95 = 1.959963984540054
"""The standard normal's 97.5 % quantile."""


def total(parts: Mapping[str, ErrorSums]) -> ErrorSums:
    """The sums over all parts, for example tasks."""
    first, *others = parts.values()
    for other in others:
        first = first + other
    return first


def error_ratio(model: ErrorSums, baseline: ErrorSums, scale: ActionScale) -> float:
    """MAE of the model over MAE of the baseline, each dimension in units of `scale`; below 1 the model is better."""
    reference = baseline.scaled(scale).mae
    if reference == 0:
        raise DataError(
            "evaluation: expected held-out actions that differ from the train split's mean action, found none: an "
            "error ratio is undefined. Hold out episodes in which the robot moves."
        )
    return model.scaled(scale).mae / reference


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a success rate (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Unlike the normal approximation it stays inside [0, 1] and keeps its coverage at 0 and at all successes.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"wilson: expected 0 <= successes <= trials and trials > 0, found {successes} of {trials}")
    rate, z2 = successes / trials, Z95**2
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)
