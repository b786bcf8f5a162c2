"""Statistics of state and actions, and the maps between raw and normalised space that they define.

Everything here is numpy, stateless and reversible where the policy's output needs it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from jaxtyping import Float32, Float64
from pydantic import Field

from vla import artifacts
from vla.config import Config
from vla.errors import DataError

Method = Literal["min_max", "mean_std", "quantile"]
DEGENERATE = 1e-4
"""A dimension whose spread is at most this times max(1, |median|) is constant for our purposes."""


class NormalizationConfig(Config):
    """How state and actions are brought to order one."""

    state: Method
    actions: Method
    degenerate_scale: Annotated[float, Field(gt=0)] = 1.0
    """Multiplies the threshold below which a dimension counts as constant."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Per-dimension statistics of one quantity, raw units, float64."""

    mean: Float64[np.ndarray, "D"]
    std: Float64[np.ndarray, "D"]
    """Population standard deviation."""
    min: Float64[np.ndarray, "D"]
    max: Float64[np.ndarray, "D"]
    q01: Float64[np.ndarray, "D"]
    q50: Float64[np.ndarray, "D"]
    q99: Float64[np.ndarray, "D"]
    count: int

    @classmethod
    def from_plain(cls, values: Mapping[str, Sequence[float] | int], *, where: str) -> Self:
        names = ("mean", "std", "min", "max", "q01", "q50", "q99")
        missing = [name for name in (*names, "count") if name not in values]
        if missing:
            raise DataError(f"{where}: expected {', '.join(names)}, count; missing {', '.join(missing)}.")
        arrays = {name: np.asarray(values[name], dtype=np.float64) for name in names}
        shape = arrays["mean"].shape
        for name, array in arrays.items():
            if array.shape != shape or array.ndim != 1:
                raise DataError(
                    f"{where}: expected {shape[0] if shape else 'a list of'} values of each statistic, "
                    f"found {array.size} of {name}."
                )
        return cls(**arrays, count=int(np.asarray(values["count"])))

    def to_plain(self) -> dict[str, list[float] | int]:
        arrays = {name: getattr(self, name).tolist() for name in ("mean", "std", "min", "max", "q01", "q50", "q99")}
        return {**arrays, "count": self.count}


@dataclass(frozen=True, slots=True)
class NormStats:
    """The file `norm_stats.json`: openpi's layout (which openpi reads) plus count, median and provenance."""

    state: Statistics
    actions: Statistics
    provenance: Mapping[str, str | int]

    @classmethod
    def read(cls, path: Path) -> Self:
        values = artifacts.read_json(path, made_by="dvc repro norm_stats")
        try:
            stats = values["norm_stats"]
            return cls(
                Statistics.from_plain(stats["state"], where=f"{path}: state"),
                Statistics.from_plain(stats["actions"], where=f"{path}: actions"),
                values.get("provenance", {}),
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: expected norm_stats.state and norm_stats.actions, missing {error}.") from None

    def write(self, path: Path) -> None:
        stats = {"state": self.state.to_plain(), "actions": self.actions.to_plain()}
        artifacts.write_json(path, {"norm_stats": stats, "provenance": dict(self.provenance)})


class Normalize:
    """(x - offset) / scale per dimension; a degenerate dimension maps to 0 and back to its median."""

    def __init__(self, stats: Statistics, method: Method, *, degenerate_scale: float = 1.0) -> None:
        self.method = method
        self.offset, self.scale, spread = _affine(stats, method)
        threshold = DEGENERATE * np.maximum(1.0, np.abs(stats.q50)) * degenerate_scale
        self.degenerate = spread <= threshold
        self.offset = np.where(self.degenerate, stats.q50, self.offset)
        self.scale = np.where(self.degenerate, 1.0, self.scale)

    def forward(self, raw: Float32[np.ndarray, "*shape D"], *, clip: bool = False) -> Float32[np.ndarray, "*shape D"]:
        """Raw to normalised; `clip` limits min_max to [-1, 1], which inference does and training does not."""
        values = np.where(self.degenerate, 0.0, (raw.astype(np.float64) - self.offset) / self.scale)
        if clip and self.method == "min_max":
            values = values.clip(-1.0, 1.0)
        return values.astype(np.float32)

    def inverse(self, normalised: Float32[np.ndarray, "*shape D"]) -> Float32[np.ndarray, "*shape D"]:
        values = normalised.astype(np.float64) * self.scale + self.offset
        return np.where(self.degenerate, self.offset, values).astype(np.float32)


def _affine(
    stats: Statistics, method: Method
) -> tuple[Float64[np.ndarray, "D"], Float64[np.ndarray, "D"], Float64[np.ndarray, "D"]]:
    """Offset, scale and the spread that decides whether a dimension is degenerate."""
    if method == "mean_std":
        return stats.mean, stats.std, stats.std
    low, high = (stats.min, stats.max) if method == "min_max" else (stats.q01, stats.q99)
    return (low + high) / 2, (high - low) / 2, high - low
