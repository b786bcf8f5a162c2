"""What all versions of the LeRobot dataset format share: `info.json` and the way columns hold numbers and images.

Public datasets differ in details (fps as 20.0, names as a list, a dict or nothing, images declared channels first), all
of which are accepted; what would change the meaning of a number is an error.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32

from vla import artifacts
from vla.columns import Columns
from vla.errors import DataError
from vla.folder import Folder
from vla.registry import did_you_mean

INFO = "meta/info.json"


@dataclass(frozen=True, slots=True)
class Info:
    """The contents of `meta/info.json`."""

    path: Path
    fps: float
    robot: str
    features: Mapping[str, Mapping[str, Any]]
    """Column -> `dtype`, `shape` and `names`."""
    data_path: str
    video_path: str | None

    @classmethod
    def read(cls, folder: Folder, *, version: str) -> Self:
        """Read the file in `folder`; raises DataError unless it is of the `version`, for example "v3."."""
        path = folder.path(INFO)
        values = artifacts.read_json(path, made_by="dvc repro -f -s download")
        found = str(values.get("codebase_version")) if isinstance(values, dict) else "no mapping"
        if not found.startswith(version):
            raise DataError(f"{path}: expected codebase_version {version}x, found {found}. Set data.format to match.")
        missing = [key for key in ("fps", "features", "data_path") if not values.get(key)]
        if missing or not isinstance(values["features"], dict) or not float(values["fps"]) > 0:
            raise DataError(
                f"{path}: expected fps, features and data_path, found {', '.join(values)}. Repair the file."
            )
        return cls(
            path=path,
            fps=float(values["fps"]),
            robot=str(values.get("robot_type") or "unknown"),
            features=values["features"],
            data_path=str(values["data_path"]),
            video_path=values.get("video_path"),
        )

    def feature(self, column: str) -> Mapping[str, Any]:
        """The entry of a column; raises DataError with what there is."""
        if column not in self.features:
            names = sorted(self.features)
            raise DataError(
                f"{self.path}: expected the column {column!r} (data.columns), found {', '.join(names)}."
                f"{did_you_mean(column, names)} Correct data.columns."
            )
        return self.features[column]

    def is_video(self, column: str) -> bool:
        return bool(self.feature(column)["dtype"] == "video")

    def names(self, column: str) -> tuple[str, ...]:
        """One name per dimension of a numeric column: the dataset's own, else `column_0`, `column_1`, ..."""
        feature = self.feature(column)
        shape = feature["shape"]
        if feature["dtype"] in ("image", "video", "string") or len(shape) != 1:
            raise DataError(
                f"{self.path}: {column}: expected a column of vectors, found {feature['dtype']} of shape {shape}. "
                f"Correct data.columns."
            )
        names = feature.get("names")
        if isinstance(names, dict):
            names = next(iter(names.values()), None) if len(names) == 1 else list(names)
        if isinstance(names, list) and len(names) == shape[0]:
            return tuple(str(name) for name in names)
        return tuple(f"{column}_{index}" for index in range(shape[0]))

    def image_size(self, column: str) -> tuple[int, int]:
        """Rows, columns of a camera's images."""
        feature = self.feature(column)
        shape = feature["shape"]
        if feature["dtype"] not in ("image", "video") or len(shape) != 3:
            raise DataError(
                f"{self.path}: {column}: expected a camera, found {feature['dtype']} of shape {shape}. "
                f"Correct data.columns.views."
            )
        rows, columns = shape[1:] if shape[0] in (1, 3) and shape[2] not in (1, 3) else shape[:2]
        return int(rows), int(columns)

    def file(self, template: str, **fields: str | int) -> Path:
        """The path, relative to the root, that a template of this file names."""
        try:
            return Path(template.format(**fields))
        except (KeyError, IndexError, ValueError) as error:
            raise DataError(
                f"{self.path}: expected a path with the fields {', '.join(fields)}, found {template!r} ({error!r}). "
                f"Repair the file."
            ) from None

    def suggest_columns(self) -> Columns:
        """The feature map that the conventional names suggest."""
        cameras = [name for name, feature in self.features.items() if feature["dtype"] in ("image", "video")]
        return Columns(
            state=next((name for name in ("observation.state", "state") if name in self.features), "observation.state"),
            actions=next((name for name in ("action", "actions") if name in self.features), "action"),
            views={name.rpartition(".")[2]: name for name in cameras},
        )


def version_of(root: Path) -> str:
    """The `codebase_version` of the folder's `info.json`, empty where there is none."""
    try:
        values = json.loads((root / INFO).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(values.get("codebase_version", "")) if isinstance(values, dict) else ""


def matrix(column: pa.ChunkedArray, width: int, *, where: str) -> Float32[np.ndarray, "T D"]:
    """A column of numbers or of lists of `width` numbers; missing numbers become NaN, missing rows are an error."""
    array = column.combine_chunks()
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        lengths = pc.unique(pc.list_value_length(array)).to_pylist()
        if lengths not in ([width], []):
            raise DataError(
                f"{where}: expected {width} numbers in each row, found rows of {lengths}. Repair the dataset."
            )
        array = array.flatten()
    elif width != 1:
        raise DataError(f"{where}: expected lists of {width} numbers, found {array.type}. Repair the dataset.")
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
        raise DataError(f"{where}: expected numbers, found {array.type}. Correct data.columns.")
    values = array.to_numpy(zero_copy_only=False).astype(np.float32)
    return values.reshape(len(column), width)
