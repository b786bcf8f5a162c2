"""LeRobot v3.0 datasets, read in place: many episodes per Parquet file, images in the table or in video files.

Files by LeRobot 0.4 to 0.6 and by `vla.sim` are read. No Python object is made per episode, so that a million of them
open in seconds; their statistics are read when they are asked for.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Int64
from numpy.typing import DTypeLike

from vla.columns import Columns
from vla.errors import DataError
from vla.folder import Folder
from vla.formats import EPISODES, Claims
from vla.lerobot import INFO, Info, version_of
from vla.lerobot_dataset import Clip, LeRobotDataset, Span, Steps_N
from vla.lerobot_tasks import EpisodeList
from vla.parquet import read_table
from vla.terms import Range
from vla.video_backend import VideoBackend

VERSION = "v3."
TASKS, EPISODE_TABLES = "meta/tasks.parquet", "meta/episodes"
TASK_TEXT = ("task", "__index_level_0__")
"""The text is the index of a pandas frame: LeRobot 0.6 names it, 0.4 does not."""
NUMBERS = {
    "episode_index": np.int64,
    "length": np.int64,
    "data/chunk_index": np.int32,
    "data/file_index": np.int32,
    "dataset_from_index": np.int64,
}
CLIP = (("chunk_index", np.int32), ("file_index", np.int32), ("from_timestamp", np.float64))
CLIP_END = "to_timestamp"
"""Not every writer says where a clip ends."""
OVERLAP = 0.5
"""Frames that clips of a file may overlap: LeRobot adds up durations, which drifts from the times of the frames."""


def recognises(root: Path) -> bool:
    """Whether the folder's `info.json` says version 3."""
    return version_of(root).startswith(VERSION)


def suggest_columns(root: Path) -> Columns:
    """The feature map that the names in `info.json` suggest."""
    folder = Folder(root)
    info = Info.read(folder, version=VERSION)
    counts = [pc.list_value_length(read_table(folder.path(name), ["tasks"])["tasks"]) for name in _tables(folder)]
    several_tasks = any((pc.max(count).as_py() or 0) > 1 for count in counts)
    return info.suggest_columns(info.cameras, several_tasks=several_tasks)


def open_dataset(folder: Folder, columns: Columns, *, name: str, video_backend: VideoBackend = "pyav") -> "LeRobotV30":
    """Open the dataset in `folder`, reading its metadata only."""
    return LeRobotV30(folder, columns, name=name, video_backend=video_backend)


class LeRobotV30(LeRobotDataset):
    """A dataset; implements `vla.formats.Dataset`."""

    def __init__(self, folder: Folder, columns: Columns, *, name: str, video_backend: VideoBackend) -> None:
        info = Info.read(folder, version=VERSION)
        super().__init__(folder, columns, info, name=name, video_backend=video_backend)
        self._tables = _tables(folder)
        self._fitting: dict[str, Bool[np.ndarray, E]] = {}
        self._placed, self._episodes = self._read_episode_tables()

    @property
    def _listed(self) -> EpisodeList:
        return self._episodes

    def episodes(self) -> pa.Table:
        """The columns of EPISODES."""
        self._episodes.check_known(self._tasks, TASKS)
        return pa.table(self._episode_columns(), schema=EPISODES)

    def claims(self) -> Claims:
        """Totals by `info.json`."""
        return Claims(episodes=self._info.episodes, steps=self._info.steps)

    def metadata_files(self) -> list[Path]:
        """`info.json`, tasks and episode tables."""
        return sorted(Path(name) for name in (INFO, TASKS, *self._tables))

    def recorded_ranges(self, episode_id: int) -> dict[str, Range]:
        """By the episode table, where it has statistics."""
        row = self._listed.row(episode_id)
        file, place = (int(self._placed[name][row]) for name in ("file", "place"))
        path = self._folder.path(self._tables[file])
        wanted = dict.fromkeys((*self._state.columns, *self._actions.columns))
        sides = {name: (f"stats/{name}/min", f"stats/{name}/max") for name in wanted}
        sides = {name: pair for name, pair in sides.items() if self._described.issuperset(pair)}
        if not sides:
            return {}
        keys = tuple(key for pair in sides.values() for key in pair)
        values = self._table_rows.read(path, place, place + 1, keys)
        found = {key: np.array(values[key][0].as_py(), dtype=np.float64).ravel() for key in keys}
        ranges = {name: (found[low], found[high]) for name, (low, high) in sides.items()}
        return self._ranges(ranges, where=f"{path}: episode {episode_id}")

    @cached_property
    def _described(self) -> frozenset[str]:
        """The columns of the episode table."""
        return frozenset(self._table_rows.schema(self._folder.path(self._tables[0])).names)

    @cached_property
    def _tasks(self) -> Mapping[int, str]:
        path = self._folder.path(TASKS)
        tasks = read_table(path)
        column = next((name for name in TASK_TEXT if name in tasks.column_names), None)
        if column is None or "task_index" not in tasks.column_names:
            raise DataError(
                f"{path}: expected a column task_index and a column {' or '.join(TASK_TEXT)}, "
                f"found {', '.join(tasks.column_names)}. Repair the dataset."
            )
        return dict(zip(tasks["task_index"].to_pylist(), tasks[column].to_pylist(), strict=True))

    def _span(self, row: int) -> Span:
        chunk, file = (int(self._placed[f"data/{part}_index"][row]) for part in ("chunk", "file"))
        start = int(self._starts[row])
        path = self._info.file(self._info.data_path, chunk_index=chunk, file_index=file)
        return Span(path, start, start + int(self._listed.lengths_E[row]), is_shared=True)

    def _clip(self, row: int, column: str) -> Clip:
        if self._info.video_path is None:
            raise DataError(f"{self._info.path}: expected video_path for the video {column}, found none. Repair it.")
        chunk, file = (int(self._placed[f"videos/{column}/{part}_index"][row]) for part in ("chunk", "file"))
        path = self._info.file(self._info.video_path, video_key=column, chunk_index=chunk, file_index=file)
        return Clip(path, begin=float(self._placed[f"videos/{column}/from_timestamp"][row]), is_shared=True)

    @cached_property
    def _starts(self) -> Int64[np.ndarray, "E"]:
        """First row of each episode in its file: `dataset_from_index` counts over the whole dataset."""
        begin_E = self._placed["dataset_from_index"]
        _, place_E = np.unique(self._file_numbers("data"), return_inverse=True)
        first_F = np.full(place_E.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(first_F, place_E, begin_E)
        return np.asarray(begin_E - first_F[place_E])

    def _times(self, episode_id: int, column: str, steps_N: Steps_N) -> tuple[Path, Float64[np.ndarray, "N"]]:
        self._check_clip(self._listed.row(episode_id), column)
        return super()._times(episode_id, column, steps_N)

    def _check_clip(self, row: int, column: str) -> None:
        """Raise DataError where a clip is not as long as its episode, or shows frames of another one."""
        fits, other = self._fits(column)[row], self._overlaps[column].get(row)
        if fits and other is None:
            return
        begin_E, end_E = (self._placed[f"videos/{column}/{part}"] for part in ("from_timestamp", CLIP_END))
        length, fps = int(self._listed.lengths_E[row]), self._info.fps
        where = f"{self._listed.where}: episode {self._listed.ids_E[row]}: {column} in {self._clip(row, column).path}"
        if not fits:
            raise DataError(
                f"{where}: expected a clip of {length} frames at {fps:g} fps, so {length / fps:.4f} s, "
                f"found {begin_E[row]:.4f} s to {end_E[row]:.4f} s. Repair the dataset or leave out the episode."
            )
        if other is not None:
            raise DataError(
                f"{where}: expected frames of its own, found its {length} from {begin_E[row]:.4f} s overlapping the "
                f"{self._listed.lengths_E[other]} of episode {self._listed.ids_E[other]} from {begin_E[other]:.4f} s. "
                f"Repair the dataset or leave out both."
            )

    def _fits(self, column: str) -> Bool[np.ndarray, "E"]:
        """Whether a clip is as long as its episode.

        It may be a frame off: some containers leave out how long the last frame is shown.
        """
        if column not in self._fitting:
            begin_E, end_E = (self._placed[f"videos/{column}/{part}"] for part in ("from_timestamp", CLIP_END))
            excess_E = (end_E - begin_E) * self._info.fps - self._listed.lengths_E
            self._fitting[column] = np.abs(excess_E) <= 1 + 1e-3
        return self._fitting[column]

    @cached_property
    def _overlaps(self) -> dict[str, dict[int, int]]:
        """Column -> row of an episode whose clip overlaps another one's -> the row of the other.

        Clips of the wrong length are left out: they are known to be the ones in the wrong place.
        """
        overlaps = {}
        for column in self._video_columns:
            file_E, begin_E = self._file_numbers(f"videos/{column}"), self._placed[f"videos/{column}/from_timestamp"]
            order_N = np.lexsort((begin_E, file_E))
            order_N = order_N[self._fits(column)[order_N]]
            before_P, after_P = order_N[:-1], order_N[1:]
            shared_P = (begin_E[before_P] - begin_E[after_P]) * self._info.fps + self._listed.lengths_E[before_P]
            found_P = (file_E[before_P] == file_E[after_P]) & (shared_P >= OVERLAP)
            pairs = list(zip(before_P[found_P].tolist(), after_P[found_P].tolist(), strict=True))
            overlaps[column] = dict(pairs) | {after: before for before, after in pairs}
        return overlaps

    def _file_numbers(self, part: str) -> Int64[np.ndarray, "E"]:
        """A number for the file of each episode, given what the names of the columns that place it begin with."""
        chunk_E, file_E = (self._placed[f"{part}/{kind}_index"] for kind in ("chunk", "file"))
        return np.asarray(chunk_E.astype(np.int64) * (int(file_E.max(initial=0)) + 1) + file_E)

    def _read_episode_tables(self) -> tuple[dict[str, np.ndarray], EpisodeList]:
        """Where each episode lies, by the names of the columns that say so, and the list of episodes.

        `file` and `place` are where the episode table itself has an episode.
        """
        columns = {**NUMBERS, **{f"videos/{name}/{part}": kind for name in self._video_columns for part, kind in CLIP}}
        ends = {f"videos/{name}/{CLIP_END}": f"videos/{name}/from_timestamp" for name in self._video_columns}
        columns |= {end: np.float64 for end in ends if end in self._described}
        parts: dict[str, list[np.ndarray]] = {name: [] for name in (*columns, "file", "place")}
        tasks = []
        for number, (name, path) in enumerate(zip(self._tables, self._folder.paths(self._tables), strict=True)):
            table = read_table(path, [*columns, "tasks"])
            for column, kind in columns.items():
                parts[column].append(_numbers(table, column, kind, where=str(self._folder.root / name)))
            parts["file"].append(np.full(len(table), number, dtype=np.int32))
            parts["place"].append(np.arange(len(table), dtype=np.int32))
            tasks.append(table["tasks"].combine_chunks())
        placed = {name: np.concatenate(pieces) for name, pieces in parts.items()}
        for end, begin in ends.items():
            placed.setdefault(end, placed[begin] + placed["length"] / self._info.fps)
        where = str(self._folder.root / EPISODE_TABLES)
        listed = EpisodeList.of(where, placed["episode_index"], placed["length"], tasks)
        order_E = np.argsort(placed["episode_index"], kind="stable")
        return {name: values[order_E] for name, values in placed.items()}, listed


def _numbers(table: pa.Table, column: str, kind: DTypeLike, *, where: str) -> np.ndarray:
    """A column without missing numbers."""
    values = table[column]
    if values.null_count or not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise DataError(
            f"{where}: {column}: expected a number in every row, found {values.type} with {values.null_count} missing. "
            f"Repair the dataset."
        )
    return values.to_numpy().astype(kind)


def _tables(folder: Folder) -> list[str]:
    """The files of the episode table."""
    names = folder.names(EPISODE_TABLES, ".parquet")
    if not names:
        raise DataError(
            f"{folder.root / EPISODE_TABLES}: expected Parquet files, found none. Download the dataset again."
        )
    return names
