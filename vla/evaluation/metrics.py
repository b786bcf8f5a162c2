"""Errors of predicted action chunks, reduced in one way only: sum(error * weight) / sum(weight).

The sums are kept per horizon step and action dimension. Every reported number is a ratio of sums over a part of that
table, so a short episode or a part-filled batch never counts more than its steps (a mean of means would).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float32, Float64

from vla.errors import DataError

Z95 = 1.959963984540054
"""The standard normal's 97.5 % quantile."""


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """Weighted sums of squared and of absolute errors, and of the weights, per horizon step and dimension."""

    square_HA: Float64[np.ndarray, "H A"]
    absolute_HA: Float64[np.ndarray, "H A"]
    weight_HA: Float64[np.ndarray, "H A"]

    @classmethod
    def of(cls, error_NHA: Float32[np.ndarray, "N H A"], weight_NH: Float32[np.ndarray, "N H"]) -> Self:
        """The sums over N chunks; `weight` is 0 past the episode end."""
        error = error_NHA.astype(np.float64)
        weight = np.broadcast_to(weight_NH.astype(np.float64)[:, :, None], error.shape)
        return cls((error**2 * weight).sum(0), (np.abs(error) * weight).sum(0), weight.sum(0))

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.square_HA + other.square_HA, self.absolute_HA + other.absolute_HA, self.weight_HA + other.weight_HA
        )

    def scaled(self, scale_A: Float64[np.ndarray, "A"], kept_A: Bool[np.ndarray, "A"]) -> Self:
        """The sums of the errors divided by `scale`, of the dimensions in `kept` alone."""
        scale = scale_A[kept_A]
        return type(self)(
            self.square_HA[:, kept_A] / scale**2, self.absolute_HA[:, kept_A] / scale, self.weight_HA[:, kept_A]
        )

    @property
    def mse(self) -> float:
        return float(self.square_HA.sum() / self.weight_HA.sum())

    @property
    def mae(self) -> float:
        return float(self.absolute_HA.sum() / self.weight_HA.sum())

    def per_dimension(self) -> list[dict[str, float]]:
        """MSE and MAE of each action dimension over all horizon steps."""
        return _rows(self.square_HA.sum(0), self.absolute_HA.sum(0), self.weight_HA.sum(0))

    def per_horizon_step(self) -> list[dict[str, float]]:
        """MSE and MAE of each step of the chunk, over all dimensions; steps past every episode's end are left out."""
        weight = self.weight_HA.sum(1)
        rows = _rows(self.square_HA.sum(1)[weight > 0], self.absolute_HA.sum(1)[weight > 0], weight[weight > 0])
        return [{"step": int(step), **row} for step, row in zip(np.flatnonzero(weight), rows, strict=True)]


def total(parts: Mapping[str, ErrorSums]) -> ErrorSums:
    """The sums over all parts, for example tasks."""
    first, *others = parts.values()
    for other in others:
        first = first + other
    return first


def error_ratio(
    model: ErrorSums, baseline: ErrorSums, *, scale_A: Float64[np.ndarray, "A"], kept_A: Bool[np.ndarray, "A"]
) -> float:
    """MAE of the model over MAE of the baseline, each dimension in units of `scale`; below 1 the model is better.

    The scale is the train split's standard deviation, so the ratio compares policies whatever their normalisation.
    """
    if not kept_A.any():
        raise DataError("evaluation: expected an action dimension that varies in the train split, found none.")
    reference = baseline.scaled(scale_A, kept_A).mae
    if reference == 0:
        raise DataError(
            "evaluation: expected held-out actions that differ from the train split's mean action, found none: an "
            "error ratio is undefined. Hold out episodes in which the robot moves."
        )
    return model.scaled(scale_A, kept_A).mae / reference


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


def _rows(
    square: Float64[np.ndarray, "N"], absolute: Float64[np.ndarray, "N"], weight: Float64[np.ndarray, "N"]
) -> list[dict[str, float]]:
    return [{"mse": float(mse), "mae": float(mae)} for mse, mae in zip(square / weight, absolute / weight, strict=True)]
