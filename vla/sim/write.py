"""Demonstrations as a LeRobot v3.0 dataset, images as PNG in Parquet: a standard dataset that LeRobot opens.

One row group per episode, so that a reader gets an episode without touching its neighbours. Equal demonstrations give
equal bytes: nothing here depends on the clock or the machine. The layout is that of LeRobot 0.6 (its documentation:
`docs/source/lerobot-dataset-v3.mdx`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vla import artifacts
from vla.sim import statistics, world
from vla.sim.demonstrations import Demonstration, DemonstrationsConfig

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
FILES_PER_CHUNK, DATA_FILE_MB = 1000, 100
ARROW_TYPES = {"float32": pa.float32(), "int64": pa.int64(), "int32": pa.int32(), "bool": pa.bool_()}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

Features = Mapping[str, Mapping[str, Any]]
"""Column -> `dtype`, `shape` and `names`, as in info.json."""


def write_dataset(root: Path, demonstrations: Iterable[Demonstration], cfg: DemonstrationsConfig) -> None:
    """Write the dataset into the folder `root`, with the images of one episode at a time in memory."""
    features = describe_features(cfg)
    instructions = [world.instruction(task) for task in cfg.tasks]
    overall = _Overall()
    episodes: list[dict[str, Any]] = []
    data = _DataFiles(root, _schema(features))
    for demonstration in demonstrations:
        episode, first = len(episodes), overall.steps
        columns = _columns(demonstration, episode, first, instructions.index(demonstration.instruction))
        chunk, file = data.add(_table(columns, demonstration, data.schema))
        episodes.append(
            {
                "episode_index": episode,
                "tasks": [demonstration.instruction],
                "length": len(demonstration),
                "data/chunk_index": chunk,
                "data/file_index": file,
                "dataset_from_index": first,
                "dataset_to_index": first + len(demonstration),
                **_flat(overall.add(columns, demonstration)),
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )
    data.close()
    _write_meta(root, features, instructions, episodes, overall)


def describe_features(cfg: DemonstrationsConfig) -> Features:
    """The columns of the dataset."""
    size = list(cfg.image_size)
    features: dict[str, dict[str, Any]] = {}
    for view in world.VIEWS:
        names = ["height", "width", "channels"]
        features[f"observation.images.{view}"] = {"dtype": "image", "shape": [*size, 3], "names": names}
    features["observation.state"] = _feature("float32", [len(world.STATE_NAMES)], list(world.STATE_NAMES))
    features["action"] = _feature("float32", [len(world.ACTION_NAMES)], list(world.ACTION_NAMES))
    for name in ("next.done", "next.success"):
        features[name] = _feature("bool", [1])
    for view in world.VIEWS:
        if "depth" in cfg.extras:
            features[f"observation.depth.{view}"] = _feature("float32", size, ["height", "width"])
        if "segmentation" in cfg.extras:
            features[f"observation.segmentation.{view}"] = _feature("int32", size, ["height", "width"])
        if "cameras" in cfg.extras:
            features[f"observation.intrinsics.{view}"] = _feature("float32", [3, 3])
            features[f"observation.pose.{view}"] = _feature("float32", [4, 4])
    features["timestamp"] = _feature("float32", [1])
    for name in ("frame_index", "episode_index", "index", "task_index"):
        features[name] = _feature("int64", [1])
    return features


def _feature(dtype: str, shape: list[int], names: list[str] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "names": names}


def _schema(features: Features) -> pa.Schema:
    """Arrow types, and the description of them that the `datasets` library of LeRobot looks for."""
    described = {name: _described(feature) for name, feature in features.items()}
    metadata = {"huggingface": json.dumps({"info": {"features": described}})}
    return pa.schema([(name, _arrow_type(feature)) for name, feature in features.items()], metadata)


def _arrow_type(feature: Mapping[str, Any]) -> pa.DataType:
    if feature["dtype"] == "image":
        return IMAGE
    value, shape = ARROW_TYPES[feature["dtype"]], feature["shape"]
    if shape == [1]:
        return value
    return pa.list_(value, shape[0]) if len(shape) == 1 else pa.list_(pa.list_(value))


def _described(feature: Mapping[str, Any]) -> dict[str, Any]:
    dtype, shape = feature["dtype"], feature["shape"]
    if dtype == "image":
        return {"_type": "Image"}
    if shape == [1]:
        return {"dtype": dtype, "_type": "Value"}
    if len(shape) == 1:
        return {"feature": {"dtype": dtype, "_type": "Value"}, "length": shape[0], "_type": "List"}
    return {"shape": shape, "dtype": dtype, "_type": "Array2D"}


def _columns(demonstration: Demonstration, episode: int, first: int, task: int) -> dict[str, np.ndarray]:
    """The numeric columns of an episode, without the extras."""
    count = len(demonstration)
    frame = np.arange(count, dtype=np.int64)
    last = frame == count - 1
    return {
        "observation.state": demonstration.state_TS,
        "action": demonstration.actions_TA,
        "next.done": last,
        "next.success": last,
        "timestamp": (frame / world.FPS).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full(count, episode, dtype=np.int64),
        "index": first + frame,
        "task_index": np.full(count, task, dtype=np.int64),
    }


def _table(columns: Mapping[str, np.ndarray], demonstration: Demonstration, schema: pa.Schema) -> pa.Table:
    arrays: dict[str, pa.Array] = {}
    for view, images in demonstration.images.items():
        paths = [f"frame-{index:06d}.png" for index in range(len(images))]
        arrays[f"observation.images.{view}"] = pa.StructArray.from_arrays([images, paths], fields=list(IMAGE))
    for name, values in {**columns, **demonstration.extras}.items():
        arrays[name] = _nested(values, schema.field(name).type)
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def _nested(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """An array of [T, ...] as a column of (nested) lists."""
    column = pa.array(values.reshape(-1))
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(column, type=kind)
    for size in reversed(values.shape[1:]):
        offsets = np.arange(0, len(column) + 1, size, dtype=np.int32)
        column = pa.ListArray.from_arrays(offsets, column)
    return column


class _DataFiles:
    """Parquet files of at most about `DATA_FILE_MB`, one row group per episode."""

    def __init__(self, root: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self._root = root
        self._file = -1
        self._sink: pa.NativeFile | None = None
        self._writer: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> tuple[int, int]:
        """Write one episode; the chunk and file index that it went to."""
        if self._sink is None or self._sink.tell() >= DATA_FILE_MB * 1_000_000:
            self._open_next()
        assert self._writer is not None  # noqa: S101  # _open_next has set it
        self._writer.write_table(table, row_group_size=len(table))
        return divmod(self._file, FILES_PER_CHUNK)

    def close(self) -> None:
        if self._writer is not None and self._sink is not None:
            self._writer.close()
            self._sink.close()

    def _open_next(self) -> None:
        self.close()
        self._file += 1
        chunk, file = divmod(self._file, FILES_PER_CHUNK)
        path = self._root / DATA_PATH.format(chunk_index=chunk, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pq.ParquetWriter(self._sink, self.schema)


class _Overall:
    """Statistics of all episodes added so far; keeps the numeric columns, which are small beside the images."""

    def __init__(self) -> None:
        self.steps = 0
        self._columns: dict[str, list[np.ndarray]] = {}
        self._counts: dict[str, np.ndarray] = {}

    def add(self, columns: Mapping[str, np.ndarray], demonstration: Demonstration) -> dict[str, statistics.Stats]:
        """Take in one episode and return its own statistics."""
        counts = {f"observation.images.{view}": counts for view, counts in demonstration.image_counts.items()}
        self.steps += len(demonstration)
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)
        for name, count in counts.items():
            self._counts[name] = self._counts.get(name, 0) + count
        return _statistics(columns, counts, len(demonstration))

    def total(self) -> dict[str, statistics.Stats]:
        columns = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        return _statistics(columns, self._counts, self.steps)


def _statistics(
    columns: Mapping[str, np.ndarray], counts: Mapping[str, np.ndarray], steps: int
) -> dict[str, statistics.Stats]:
    images = {name: statistics.of_images(count, steps) for name, count in counts.items()}
    return {**images, **{name: statistics.of_column(values) for name, values in columns.items()}}


def _flat(stats: Mapping[str, statistics.Stats]) -> dict[str, Any]:
    return {f"stats/{name}/{kind}": value.tolist() for name, kinds in stats.items() for kind, value in kinds.items()}


def _write_meta(
    root: Path, features: Features, instructions: Sequence[str], episodes: list[dict[str, Any]], overall: _Overall
) -> None:
    path = root / EPISODES_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(episodes), path)
    # LeRobot finds the text in the index of the pandas frame.
    tasks = pd.DataFrame({"task_index": range(len(instructions))}, index=pd.Index(instructions, name="task"))
    tasks.to_parquet(root / "meta/tasks.parquet")
    stats = {name: {kind: value.tolist() for kind, value in kinds.items()} for name, kinds in overall.total().items()}
    artifacts.write_json(root / "meta/stats.json", stats)
    info = {
        "codebase_version": "v3.0",
        "robot_type": world.ROBOT,
        "total_episodes": len(episodes),
        "total_frames": overall.steps,
        "total_tasks": len(instructions),
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": 200,
        "fps": world.FPS,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": DATA_PATH,
        "video_path": None,
        "features": features,
    }
    artifacts.write_json(root / "meta/info.json", info)
