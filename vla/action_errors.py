"""How far predicted action chunks are from recorded ones, reduced in one way only: sum(error * weight) / sum(weight).

The sums are kept per horizon step and action dimension. Every reported number is a ratio of sums over a part of that
table, so a short episode or a part-filled batch never counts more than its steps (a mean of means would). Training's
validation and the stage evaluate measure by this module alike.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float32, Float64

from vla.delta import Delta
from vla.errors import DataError
from vla.normalization import Normalize, NormStats, Statistics


@dataclass(frozen=True, slots=True)
class ActionScale:
    """The units in which errors of different dimensions add up: the standard deviations of the recorded actions.

    They are fixed in the train split, so errors of policies compare whatever their normalisation.
    """

    std_A: Float64[np.ndarray, "A"]
    kept_A: Bool[np.ndarray, "A"]
    """Whether the dimension varies in the train split; one that does not has no unit."""

    @classmethod
    def of(cls, recorded: Statistics) -> Self:
        """Raises DataError where no dimension varies."""
        kept_A = ~Normalize(recorded, "mean_std").degenerate
        if not kept_A.any():
            raise DataError(
                "norm stats: expected an action dimension that varies in the train split, found none: errors have no "
                "unit. Train on episodes in which the robot moves."
            )
        return cls(recorded.std, kept_A)


def recorded_actions(stats: NormStats, *, delta: Delta, where: str) -> Statistics:
    """The train split's actions as recorded, every step once: a scale that no setting of normalisation changes.

    Raises DataError where delta actions were learned with statistics that do not have them.
    """
    if stats.recorded_actions is None and len(delta):
        raise DataError(
            f"{where}: expected recorded_actions in the norm stats of delta actions, found none. "
            f"Compute the statistics with 'dvc repro norm_stats' and train again."
        )
    return stats.recorded_actions or stats.actions


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """Weighted sums of squared and of absolute errors, and of the weights, per horizon step and dimension."""

    square_HA: Float64[np.ndarray, "H A"]
    absolute_HA: Float64[np.ndarray, "H A"]
    weight_HA: Float64[np.ndarray, "H A"]

    @classmethod
    def of(cls, error_NHA: Float32[np.ndarray, "N H A"], weight_NH: Float32[np.ndarray, "N H"]) -> Self:
        """The sums over N chunks, in float64; `weight` is 0 past the episode end."""
        error = error_NHA.astype(np.float64)
        weight = np.broadcast_to(weight_NH.astype(np.float64)[:, :, None], error.shape)
        return cls((error**2 * weight).sum(0), (np.abs(error) * weight).sum(0), weight.sum(0))

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.square_HA + other.square_HA, self.absolute_HA + other.absolute_HA, self.weight_HA + other.weight_HA
        )

    def scaled(self, scale: ActionScale) -> Self:
        """The sums of the errors in units of `scale`, of the dimensions that have one alone."""
        kept, unit = scale.kept_A, scale.std_A[scale.kept_A]
        return type(self)(self.square_HA[:, kept] / unit**2, self.absolute_HA[:, kept] / unit, self.weight_HA[:, kept])

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


def _rows(
    square: Float64[np.ndarray, "N"], absolute: Float64[np.ndarray, "N"], weight: Float64[np.ndarray, "N"]
) -> list[dict[str, float]]:
    return [{"mse": float(mse), "mae": float(mae)} for mse, mae in zip(square / weight, absolute / weight, strict=True)]
