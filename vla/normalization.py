"""Statistics of state and actions, and the maps between raw and normalised space that they define.

Everything here is numpy, stateless and reversible where the policy's output needs it. Files of other projects are read
too: they may lack extremes, median and count, and only a method that needs what is missing is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from jaxtyping import Float32, Float64
from pydantic import Field

from vla import artifacts
from vla.config import Config
from vla.errors import ConfigError, DataError

Method = Literal["min_max", "mean_std", "quantile"]
Formula = Literal["vlaflow", "openpi", "lerobot"]
Quantity = Literal["state", "actions"]
NEEDED: Mapping[Method, tuple[str, str]] = {
    "min_max": ("min", "max"),
    "mean_std": ("mean", "std"),
    "quantile": ("q01", "q99"),
}
"""What a method takes from the statistics."""
ALWAYS, OPTIONAL = ("mean", "std"), ("min", "max", "q01", "q50", "q99")
EPSILON: Mapping[Formula, float] = {"openpi": 1e-6, "lerobot": 1e-8}
"""What other projects add to a divisor (openpi), or to a deviation and in place of an empty range (LeRobot)."""
DEGENERATE = 1e-4
"""A dimension whose spread is at most this times max(1, |median|) is constant for our purposes."""
FILE_NAME = "norm_stats.json"
Dimensions = tuple[Annotated[int, Field(ge=0)], ...]


class NormalizationConfig(Config):
    """How state and actions are brought to order one."""

    state: Method
    actions: Method
    formula: Formula = "vlaflow"
    """How the project divides that a policy was trained with: pi0.5 reads its state in 256 steps, which a difference of
    1e-5 flips. Those of openpi and LeRobot know no constant dimensions and never clip."""
    degenerate: Literal["constant", "stop"] = "constant"
    """A dimension that hardly moves in the train split: always its constant, or an error that names it."""
    degenerate_scale: Annotated[float, Field(gt=0)] = 1.0
    """Multiplies the threshold below which a dimension counts as constant."""
    raw_state: Dimensions = ()
    """State dimensions that stay in raw units, such as a gripper that is -1 or 1."""
    raw_actions: Dimensions = ()


@dataclass(frozen=True, slots=True)
class Statistics:
    """Per-dimension statistics of one quantity, raw units, float64; None for what a file does not have."""

    mean: Float64[np.ndarray, "D"]
    std: Float64[np.ndarray, "D"]
    """Population standard deviation."""
    min: Float64[np.ndarray, "D"] | None = None
    max: Float64[np.ndarray, "D"] | None = None
    q01: Float64[np.ndarray, "D"] | None = None
    q50: Float64[np.ndarray, "D"] | None = None
    q99: Float64[np.ndarray, "D"] | None = None
    count: int | None = None
    """Values per dimension, each as often as it counts."""

    @classmethod
    def from_plain(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Raises DataError when mean or std are missing, and for lists that cannot be statistics of one quantity."""
        given = {name: values[name] for name in (*ALWAYS, *OPTIONAL) if values.get(name) is not None}
        missing = [name for name in ALWAYS if name not in given]
        if missing:
            raise DataError(
                f"{where}: expected {', '.join(ALWAYS)} and mostly {', '.join(OPTIONAL)}, missing {', '.join(missing)}."
            )
        arrays = {name: np.asarray(value, dtype=np.float64) for name, value in given.items()}
        shape = arrays["mean"].shape
        for name, array in arrays.items():
            if array.shape != shape or array.ndim != 1:
                raise DataError(
                    f"{where}: expected {shape[0] if shape else 'a list of'} values of each statistic, "
                    f"found {array.size} of {name}."
                )
            if not np.isfinite(array).all():
                raise DataError(f"{where}: expected finite numbers, found {name} {array.tolist()}. Compute them again.")
        _check_order(arrays, where=where)
        count = values.get("count")
        return cls(**arrays, count=None if count is None else int(np.asarray(count)))

    def to_plain(self) -> dict[str, list[float] | int]:
        arrays = {name: getattr(self, name) for name in (*ALWAYS, *OPTIONAL)}
        plain: dict[str, list[float] | int] = {
            name: array.tolist() for name, array in arrays.items() if array is not None
        }
        return plain if self.count is None else {**plain, "count": self.count}

    @property
    def dims(self) -> int:
        return len(self.mean)

    def first(self, dims: int) -> Self:
        """The statistics of the first dimensions."""
        optional = {name: getattr(self, name) for name in OPTIONAL}
        cut = {name: None if array is None else array[:dims] for name, array in optional.items()}
        return type(self)(self.mean[:dims], self.std[:dims], **cut, count=self.count)

    @property
    def middle(self) -> Float64[np.ndarray, "D"]:
        """The median, or the mean where a file has no median."""
        return self.mean if self.q50 is None else self.q50


def _check_order(arrays: Mapping[str, Float64[np.ndarray, "D"]], *, where: str) -> None:
    """Raise DataError for a negative standard deviation and for a lower end above the upper one."""
    for low, high in (("min", "max"), ("q01", "q99")):
        if low in arrays and high in arrays and (arrays[low] > arrays[high]).any():
            raise DataError(f"{where}: expected {low} below {high} in every dimension. Compute them again.")
    if (arrays["std"] < 0).any():
        raise DataError(f"{where}: expected a std of at least 0 in every dimension. Compute them again.")


@dataclass(frozen=True, slots=True)
class NormStats:
    """The file `norm_stats.json`: openpi's layout (which openpi reads) plus count, median and provenance."""

    state: Statistics
    actions: Statistics
    """Of what is normalised: of differences in the dimensions of delta actions."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    recorded_actions: Statistics | None = None
    """Of the actions as recorded, every step once; None in files of other projects."""

    @classmethod
    def read(cls, path: Path) -> Self:
        values = artifacts.read_json(path, made_by="dvc repro norm_stats")
        try:
            stats, recorded = values["norm_stats"], values.get("recorded_actions")
            return cls(
                Statistics.from_plain(stats["state"], where=f"{path}: state"),
                Statistics.from_plain(stats["actions"], where=f"{path}: actions"),
                values.get("provenance", {}),
                None if recorded is None else Statistics.from_plain(recorded, where=f"{path}: recorded_actions"),
            )
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path}: expected norm_stats.state and norm_stats.actions, missing {error}. Name another file."
            ) from None

    @classmethod
    def find(cls, path: Path) -> Self:
        """The statistics of a bundle, of a folder that holds a `norm_stats.json`, or of such a file."""
        return cls.read(cls.locate(path))

    @staticmethod
    def locate(path: Path, *, asset: str | None = None) -> Path:
        """The file that `find` reads; `asset` chooses among several below `assets/`."""
        files = sorted(path.glob(f"assets/**/{FILE_NAME}"))
        by_asset = {file.parent.relative_to(path / "assets").as_posix(): file for file in files}
        if asset is not None:
            if asset not in by_asset:
                raise DataError(
                    f"{path}: expected statistics of the asset {asset}, found those of "
                    f"{', '.join(by_asset) or 'none'}. Correct the name."
                )
            return by_asset[asset]
        file = path / FILE_NAME if path.is_dir() else path
        if len(files) > 1 or not (files or file.is_file()):
            found = ", ".join(str(item) for item in files) or "none"
            raise DataError(
                f"{path}: expected a bundle or a {FILE_NAME}, found {found}. Give the folder of one, or in "
                f"norm_stats.reuse its asset."
            )
        return files[0] if files else file

    def write(self, path: Path) -> None:
        stats = {"state": self.state.to_plain(), "actions": self.actions.to_plain()}
        recorded = {} if self.recorded_actions is None else {"recorded_actions": self.recorded_actions.to_plain()}
        artifacts.write_json(path, {"norm_stats": stats, **recorded, "provenance": dict(self.provenance)})

    def of(self, quantity: Quantity) -> Statistics:
        return self.state if quantity == "state" else self.actions

    def names(self, quantity: Quantity) -> list[str]:
        """Names of the dimensions, where the file has them; else their numbers."""
        names = self.provenance.get("state_names" if quantity == "state" else "action_names")
        return list(names) if names else [f"dimension {index}" for index in range(self.of(quantity).dims)]


class Normalize:
    """(x - offset) / divisor per dimension, and back with `scale`, which is the divisor but in LeRobot's mean_std.

    A degenerate dimension maps to 0 and back to its median (its mean where the file has no median); one in `raw` stays
    as it is. Raises DataError when the statistics lack what the method needs.
    """

    def __init__(
        self,
        stats: Statistics,
        method: Method,
        *,
        formula: Formula = "vlaflow",
        degenerate_scale: float = 1.0,
        raw: Sequence[int] = (),
    ) -> None:
        self.method: Method = method
        self.formula: Formula = formula
        offset, divisor, scale, spread = _affine(stats, method, formula)
        self.raw = np.isin(np.arange(stats.dims), np.array(raw, dtype=np.int64))
        self.threshold = DEGENERATE * np.maximum(1.0, np.abs(stats.middle)) * degenerate_scale
        self.degenerate = (spread <= self.threshold) & ~self.raw & (formula == "vlaflow")
        self.offset = np.where(self.raw, 0.0, np.where(self.degenerate, stats.middle, offset))
        self.divisor = np.where(self.raw | self.degenerate, 1.0, divisor)
        self.scale = np.where(self.raw | self.degenerate, 1.0, scale)

    @property
    def dims(self) -> int:
        return len(self.offset)

    def forward(self, raw: Float32[np.ndarray, "*shape D"], *, clip: bool = False) -> Float32[np.ndarray, "*shape D"]:
        """Raw to normalised; `clip` limits min_max to [-1, 1], which inference does and training does not."""
        values = np.where(self.degenerate, 0.0, (raw.astype(np.float64) - self.offset) / self.divisor)
        if clip and self.method == "min_max" and self.formula == "vlaflow":
            values = np.where(self.raw, values, values.clip(-1.0, 1.0))
        return values.astype(np.float32)

    def inverse(self, normalised: Float32[np.ndarray, "*shape D"]) -> Float32[np.ndarray, "*shape D"]:
        values = normalised.astype(np.float64) * self.scale + self.offset
        return np.where(self.degenerate, self.offset, values).astype(np.float32)


def make_normalize(cfg: NormalizationConfig, stats: NormStats, quantity: Quantity) -> Normalize:
    """The map of one quantity as configured; raises what the statistics or the policy on degenerate ones forbid."""
    values, method = stats.of(quantity), cfg.state if quantity == "state" else cfg.actions
    raw = cfg.raw_state if quantity == "state" else cfg.raw_actions
    if wrong := [dim for dim in raw if dim >= values.dims]:
        raise ConfigError(
            f"transforms.normalization.raw_{quantity}: expected dimensions from 0 to {values.dims - 1}, found {wrong}. "
            f"Correct the list."
        )
    try:
        normalize = Normalize(values, method, formula=cfg.formula, degenerate_scale=cfg.degenerate_scale, raw=raw)
    except DataError as error:
        raise DataError(f"norm stats: {quantity}: {error}") from None
    still = np.array(stats.names(quantity))[normalize.degenerate].tolist()
    if still and cfg.degenerate == "stop":
        raise DataError(
            f"norm stats: {quantity}: expected every dimension to move in the train split, found {', '.join(still)} "
            f"constant by the method {method}. Leave them out in data.columns, list them in "
            f"transforms.normalization.raw_{quantity}, or set transforms.normalization.degenerate to constant."
        )
    return normalize


def _affine(
    stats: Statistics, method: Method, formula: Formula
) -> tuple[Float64[np.ndarray, "D"], Float64[np.ndarray, "D"], Float64[np.ndarray, "D"], Float64[np.ndarray, "D"]]:
    """Offset, divisor, scale of the way back, and the spread that decides whether a dimension is degenerate."""
    low, high = (getattr(stats, name) for name in NEEDED[method])
    if low is None or high is None:
        lacking = [name for name, values in zip(NEEDED[method], (low, high), strict=True) if values is None]
        raise DataError(
            f"expected {' and '.join(NEEDED[method])} for the method {method}, found no {' and no '.join(lacking)}. "
            f"Choose another method in transforms.normalization, or compute statistics that have them."
        )
    if method == "mean_std":
        mean, std = low, high
        divisor = std if formula == "vlaflow" else std + EPSILON[formula]
        return mean, divisor, std if formula == "lerobot" else divisor, std
    spread = high - low
    if formula == "vlaflow":
        return (low + high) / 2, spread / 2, spread / 2, spread
    width = spread + EPSILON[formula] if formula == "openpi" else np.where(spread == 0, EPSILON[formula], spread)
    return low + width / 2, width / 2, width / 2, spread
