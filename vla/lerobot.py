"""What all versions of the LeRobot dataset format describe in `meta/info.json`: the columns and where the files lie.

Public datasets differ in details (fps as 20.0, names as a list, a list of lists, a dict or nothing, shapes missing,
images declared channels first), all of which are accepted; what would change the meaning of a number is an error.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief
from typing import Any, Self

from vla.columns import Columns, short_names
from vla.errors import DataError
from vla.folder import Folder
from vla.registry import did_you_mean

INFO = "meta/info.json"
CAMERAS = ("image", "video")
OWN_COLUMNS = ("timestamp", "frame_index", "episode_index", "index")
"""Columns of every dataset that number its rows."""
TELLING = ("task_description", "instruction", "language", "task")
"""Words in the name of a column that says what to do, the most telling first."""
CHUNK_SIZE = 1000
"""Files per folder where `chunks_size` does not say."""
FIELD = re.compile(r"\{([a-z_]+)(:0(?:[1-9]|1[0-9]|20)d)?\}")
"""A field of a path and how its number is padded; Python knows more ways to write it, some of which fill the memory."""


@dataclass(frozen=True, slots=True)
class Info:
    """The contents of `meta/info.json`."""

    path: Path
    fps: float
    robot: str
    features: Mapping[str, Mapping[str, Any]]
    """Column -> `dtype`, `shape`, `names` and, for video, how it is encoded."""
    data_path: str
    video_path: str | None
    chunk_size: int
    episodes: int | None
    steps: int | None
    """Totals; None where the file does not say."""

    @classmethod
    def read(cls, folder: Folder, *, version: str) -> Self:
        """Read the file in `folder`; raises DataError unless it is of the `version`, for example "v3."."""
        path = folder.path(INFO)
        values = read_info(path)
        found = str(values.get("codebase_version"))
        if not found.startswith(version):
            raise DataError(f"{path}: expected codebase_version {version}x, found {found}. Set data.format to match.")
        for key, (expected, is_right) in NEEDED.items():
            if key not in values:
                raise DataError(f"{path}: expected {', '.join(NEEDED)}, found no {key}. Repair the file.")
            if not is_right(values[key]):
                raise DataError(f"{path}: {key}: expected {expected}, found {brief(values[key])}. Repair the file.")
        for name, feature in values["features"].items():
            if not (isinstance(feature, dict) and isinstance(feature.get("dtype"), str)):
                raise DataError(
                    f"{path}: features: {name}: expected a mapping with a dtype, found {brief(feature)}. "
                    f"Repair the file."
                )
        return cls(
            path=path,
            fps=float(values["fps"]),
            robot=str(values.get("robot_type") or "unknown"),
            features=values["features"],
            data_path=values["data_path"],
            video_path=str(values["video_path"]) if values.get("video_path") else None,
            chunk_size=_count(values.get("chunks_size")) or CHUNK_SIZE,
            episodes=_count(values.get("total_episodes")),
            steps=_count(values.get("total_frames")),
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

    @property
    def cameras(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature["dtype"] in CAMERAS]

    def is_video(self, column: str) -> bool:
        return bool(self.feature(column)["dtype"] == "video")

    def is_task_index(self, column: str) -> bool:
        """Whether a column is known to hold the index of a task, whose texts an episode's metadata list."""
        return column == "task_index" or str(self.features.get(column, {}).get("dtype")).startswith("int")

    def encoding(self, column: str) -> dict[str, Any]:
        """How a video is encoded: `info`, which older writers call `video_info`."""
        feature = self.feature(column)
        return {**(feature.get("video_info") or {}), **(feature.get("info") or {})}

    def is_depth(self, column: str) -> bool:
        """Whether a camera's pixels are distances by its encoding."""
        encoding = self.encoding(column)
        return bool(encoding.get("is_depth_map") or encoding.get("video.is_depth_map"))

    def names(self, column: str) -> tuple[str, ...]:
        """One name per dimension of a numeric column: the dataset's own, else `column_0`, `column_1`, ..."""
        feature = self.feature(column)
        names = list(_flat(feature.get("names")))
        shape = feature.get("shape") or [len(names) or 1]
        if feature["dtype"] in (*CAMERAS, "string") or len(shape) != 1:
            raise DataError(
                f"{self.path}: {column}: expected a column of vectors, found {feature['dtype']} of shape {shape}. "
                f"Correct data.columns."
            )
        if not isinstance(shape[0], int):
            raise DataError(
                f"{self.path}: {column}: expected vectors of one length, found rows of varying length "
                f"(shape {shape}), which cannot be used. Take it out of data.columns."
            )
        return tuple(names) if len(names) == shape[0] else tuple(f"{column}_{index}" for index in range(shape[0]))

    def image_size(self, column: str) -> tuple[int, int]:
        """Rows, columns of a camera's images."""
        if self.is_depth(column):
            raise DataError(f"{self.path}: {column}: expected colours, found depth. Name it in data.columns.depth.")
        return self._pixels(column)

    def depth_size(self, column: str) -> tuple[int, int]:
        """Rows, columns of depth: of a video that is said to hold it, or of a column of lists of floats."""
        feature, shape = self.feature(column), self.feature(column).get("shape") or []
        if self.is_video(column) and self.is_depth(column):
            return self._pixels(column)
        if not str(feature["dtype"]).startswith("float") or len(shape) != 2:
            raise DataError(
                f"{self.path}: {column}: expected depth, which is a video with is_depth_map or floats of shape "
                f"[rows, columns], found {feature['dtype']} of shape {shape}. Correct data.columns.depth."
            )
        return int(shape[0]), int(shape[1])

    def _pixels(self, column: str) -> tuple[int, int]:
        feature, encoding = self.feature(column), self.encoding(column)
        shape = feature.get("shape") or [encoding.get("video.height"), encoding.get("video.width"), 3]
        if feature["dtype"] not in CAMERAS or len(shape) != 3 or not all(isinstance(size, int) for size in shape):
            raise DataError(
                f"{self.path}: {column}: expected a camera, found {feature['dtype']} of shape {shape}. "
                f"Correct data.columns.views."
            )
        rows, columns = shape[1:] if shape[0] in (1, 3) and shape[2] not in (1, 3) else shape[:2]
        return rows, columns

    def file(self, template: str, **fields: str | int) -> Path:
        """The path, relative to the root, that a template of this file names."""
        found = FIELD.findall(template)
        known = all(name in fields and (isinstance(fields[name], int) or not padding) for name, padding in found)
        if not known or set("{}").intersection(FIELD.sub("", template)):
            raise DataError(
                f"{self.path}: expected a path with the fields {', '.join(fields)}, numbers padded to at most 20 "
                f"digits as in {{name:03d}}, found {template!r}. Repair the file."
            )
        return Path(template.format(**fields))

    def task_columns(self) -> list[str]:
        """The columns that could say what to do: text, and whole numbers that may index the tasks."""
        return [
            name
            for name, feature in self.features.items()
            if name not in OWN_COLUMNS
            and not name.startswith("next.")
            and (feature["dtype"] == "string" or str(feature["dtype"]).startswith("int"))
            and feature.get("shape") in (None, [], [1])
        ]

    def suggest_columns(self, cameras: Sequence[str], *, several_tasks: bool) -> Columns:
        """The feature map that the usual names suggest; cameras of depth or segmentation are left out."""
        seen = [name for name in cameras if not self.is_depth(name) and not _is_derived(name)]
        return Columns(
            state=self._vector("observation.state", "state"),
            actions=self._vector("action", "actions"),
            views=dict(zip(short_names(seen), seen, strict=True)),
            instruction=self._instruction() if several_tasks else None,
        )

    def _instruction(self) -> str | None:
        """The column that most likely says what to do."""
        choices = self.task_columns()
        likely = (name for word in TELLING for name in choices if word in name)
        return next(likely, None)

    def _vector(self, *usual: str) -> str | tuple[str, ...]:
        """The first of the usual names that exists, else all columns below the first, else the first all the same."""
        parts = tuple(name for name in self.features if name.startswith(f"{usual[0]}."))
        return next((name for name in usual if name in self.features), parts or usual[0])


def read_info(path: Path) -> dict[str, Any]:
    """The contents of an `info.json`; raises DataError where they are no mapping."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON, found {error}. Repair the file or get the dataset again.") from None
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected a mapping, found {brief(values)}. Repair the file or get the dataset again.")
    return values


def described(root: Path) -> dict[str, Any]:
    """What the folder's `info.json` says, empty where there is none that can be read."""
    try:
        return read_info(root / INFO)
    except (OSError, DataError):
        return {}


def fault_of(root: Path) -> str:
    """What is wrong with the `info.json` of a folder that no format recognises; empty where it has none."""
    path = root / INFO
    if not path.is_file():
        return ""
    try:
        version = read_info(path).get("codebase_version")
    except DataError as unreadable:
        return str(unreadable)
    return f"{path}: expected the codebase_version of a supported format, found {version!r}."


def version_of(root: Path) -> str:
    """The `codebase_version` of the folder's `info.json`, empty where there is none."""
    return str(described(root).get("codebase_version", ""))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and value is not True and 0 < value <= sys.float_info.max


NEEDED: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "fps": ("a positive number", _is_positive),
    "features": ("a mapping of columns", lambda value: isinstance(value, dict) and bool(value)),
    "data_path": ("a path as text", lambda value: isinstance(value, str) and bool(value)),
}
"""Key that the file must have -> what its value is, and whether a value is that."""


def _flat(names: Any) -> Iterator[str]:
    """Names of dimensions, however they are nested: ["a"], [["a"]], {"motors": ["a"]}, {"a": 0}."""
    if isinstance(names, Mapping):
        values = list(names.values())
        if all(isinstance(value, int) for value in values):
            yield from sorted(names, key=lambda name: int(names[name]))
        else:
            for value in values:
                yield from _flat(value)
    elif isinstance(names, list):
        for name in names:
            yield from _flat(name) if isinstance(name, list | Mapping) else [str(name)]


def _is_derived(camera: str) -> bool:
    """Whether a camera shows something else than colours, by its name."""
    return any(word.startswith(("depth", "seg")) for part in camera.split(".") for word in part.split("_"))
