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
import pyarrow.parquet as pq
from jaxtyping import Int64

from vla.columns import Columns
from vla.errors import DataError
from vla.folder import Folder
from vla.formats import EPISODES, Claims, Range
from vla.lerobot import INFO, Info, version_of
from vla.lerobot_dataset import Clip, LeRobotDataset, Rows
from vla.lerobot_tasks import EpisodeList
from vla.parquet import read_table

VERSION = "v3."
TASKS, EPISODE_TABLES = "meta/tasks.parquet", "meta/episodes"
TASK_TEXT = ("task", "__index_level_0__")
"""The text is the index of a pandas frame: LeRobot 0.6 names it, 0.4 does not."""
EPISODE_COLUMNS = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index", "dataset_from_index"]


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


def open_dataset(folder: Folder, columns: Columns, *, name: str) -> "LeRobotV30":
    """Open the dataset in `folder`, reading its metadata only."""
    return LeRobotV30(folder, columns, name=name)


class LeRobotV30(LeRobotDataset):
    """A dataset; implements `vla.formats.Dataset`."""

    def __init__(self, folder: Folder, columns: Columns, *, name: str) -> None:
        super().__init__(folder, columns, Info.read(folder, version=VERSION), name=name)
        self._tables = _tables(folder)
        table = self._read_episode_table()
        self._episodes = EpisodeList(
            where=str(folder.root / EPISODE_TABLES),
            ids_E=table["episode_index"].to_numpy(),
            lengths_E=table["length"].to_numpy(),
            tasks=table["tasks"].combine_chunks().cast(pa.list_(pa.string())),
        )
        self._placed = {name: table[name].to_numpy() for name in table.column_names if name != "tasks"}

    @property
    def _listed(self) -> EpisodeList:
        return self._episodes

    def episodes(self) -> pa.Table:
        """The columns of EPISODES."""
        self._episodes.check_known(self._tasks, TASKS)
        return pa.table(self._episode_columns, schema=EPISODES)

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
        return frozenset(pq.read_schema(self._folder.path(self._tables[0])).names)

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

    def _rows(self, row: int) -> Rows:
        chunk, file = (int(self._placed[f"data/{part}_index"][row]) for part in ("chunk", "file"))
        start = int(self._starts[row])
        path = self._info.file(self._info.data_path, chunk_index=chunk, file_index=file)
        return Rows(path, start, start + int(self._listed.lengths_E[row]), is_shared=True)

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
        chunk_E, file_E = (self._placed[f"data/{part}_index"] for part in ("chunk", "file"))
        _, place_E = np.unique(chunk_E * (file_E.max(initial=0) + 1) + file_E, return_inverse=True)
        first_F = np.full(place_E.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(first_F, place_E, begin_E)
        return np.asarray(begin_E - first_F[place_E])

    def _read_episode_table(self) -> pa.Table:
        """The episode table in episode order, without its statistics; `file` and `place` are where each row lies."""
        parts = ("chunk_index", "file_index", "from_timestamp")
        columns = [*EPISODE_COLUMNS, *(f"videos/{column}/{part}" for column in self._video_columns for part in parts)]
        tables = []
        for number, name in enumerate(self._tables):
            table = read_table(self._folder.path(name), columns).select(columns)
            table = table.append_column("file", pa.array(np.full(len(table), number)))
            tables.append(table.append_column("place", pa.array(np.arange(len(table)))))
        table = pa.concat_tables(tables, promote_options="permissive")
        ids_E = table["episode_index"].to_numpy()
        return table if (np.diff(ids_E) > 0).all() else table.sort_by("episode_index")


def _tables(folder: Folder) -> list[str]:
    """The files of the episode table."""
    names = folder.names(EPISODE_TABLES, ".parquet")
    if not names:
        raise DataError(
            f"{folder.root / EPISODE_TABLES}: expected Parquet files, found none. Download the dataset again."
        )
    return names
