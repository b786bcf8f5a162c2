"""LeRobot v3.0 datasets, read in place: many episodes per Parquet file, images in the table or in video files.

Files by LeRobot 0.4 to 0.6 and by `vla.sim` are read. An episode's rows are found from the episode table and compared
with their own `episode_index`, so that a file that was cut or replaced is noticed.
"""

from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import UInt8

from vla.errors import DataError
from vla.formats import Columns
from vla.lerobot import Info, decode_images, matrix
from vla.parquet import ParquetRows, read_table
from vla.terms import DatasetSchema, Steps
from vla.video import read_frames

TASKS, EPISODES = "meta/tasks.parquet", "meta/episodes"
TASK_TEXT = ("task", "__index_level_0__")
"""The text is the index of a pandas frame: LeRobot 0.6 names it, 0.4 does not."""
EPISODE_COLUMNS = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index", "dataset_from_index"]


def open_dataset(root: Path, columns: Columns, *, name: str) -> "LeRobotV30":
    """Open the dataset in the folder `root`, reading its metadata only."""
    return LeRobotV30(root, columns, name=name)


class LeRobotV30:
    """A dataset; implements `vla.formats.Dataset`."""

    def __init__(self, root: Path, columns: Columns, *, name: str) -> None:
        self._root, self._columns = root, columns
        self._info = Info.read(root, version="v3.")
        self._rows = ParquetRows()
        self._table = self._read_episode_table()
        self.schema = DatasetSchema(
            name=name,
            format="lerobot_v30",
            fps=self._info.fps,
            views={view: self._info.image_size(column) for view, column in columns.views.items()},
            state_names=self._info.names(columns.state),
            action_names=self._info.names(columns.actions),
            robot=self._info.robot,
        )

    def episodes(self) -> pa.Table:
        """Columns episode_id, length, instruction."""
        return pa.table(
            {
                "episode_id": self._table["episode_index"].cast(pa.int64()),
                "length": self._table["length"].cast(pa.int64()),
                "instruction": pa.array(self._instructions(), pa.string()),
            }
        )

    def steps(self, episode_id: int) -> Steps:
        """The numeric columns of an episode."""
        state, actions = self._columns.state, self._columns.actions
        table, where = self._read(episode_id, ("timestamp", state, actions))
        return Steps(
            timestamp_T=matrix(table["timestamp"], 1, where=f"{where}, timestamp")[:, 0].astype(np.float64),
            state_TS=matrix(table[state], self.schema.state_dim, where=f"{where}, {state}"),
            actions_TA=matrix(table[actions], self.schema.action_dim, where=f"{where}, {actions}"),
        )

    def images(self, episode_id: int, view: str) -> UInt8[np.ndarray, "T Y X 3"]:
        """All frames of one view of an episode."""
        column = self._columns.views[view]
        if self._info.is_video(column):
            return self._video_frames(episode_id, view)
        table, where = self._read(episode_id, (column,))
        return decode_images(table[column], self.schema.views[view], where=f"{where}, {column}")

    def files(self) -> list[Path]:
        """Metadata, data files, and the video files of the chosen views."""
        rows = range(len(self._table))
        paths = {self._data_path(row) for row in rows}
        paths.update(self._video_path(row, column) for row in rows for column in self._videos)
        paths.update([self._info.path, self._root / TASKS, *self._episode_files()])
        return sorted(path.relative_to(self._root) for path in paths)

    def _read(self, episode_id: int, columns: tuple[str, ...]) -> tuple[pa.Table, str]:
        """An episode's rows, and its file and number for messages."""
        row = self._row(episode_id)
        path, start = self._data_path(row), int(self._starts[row])
        stop = start + int(self._table["length"][row].as_py())
        where = f"{path}: episode {episode_id}"
        try:
            table = self._rows.read(path, start, stop, (*columns, "episode_index"))
        except DataError as error:
            raise DataError(f"Episode {episode_id}: {error}") from None
        found = pc.unique(table["episode_index"]).to_pylist()
        if found != [episode_id]:
            raise DataError(
                f"{where}: expected its rows at {start} to {stop}, found rows of the episodes {found[:5]}: the file is "
                f"not the one that {EPISODES} describes. Download the dataset again."
            )
        return table, where

    def _video_frames(self, episode_id: int, view: str) -> UInt8[np.ndarray, "T Y X 3"]:
        row, column = self._row(episode_id), self._columns.views[view]
        path = self._video_path(row, column)
        begin = self._table[f"videos/{column}/from_timestamp"][row].as_py()
        times = begin + np.arange(self._table["length"][row].as_py()) / self.schema.fps
        where = f"Episode {episode_id}, {column}"
        return read_frames(path, times, fps=self.schema.fps, size=self.schema.views[view], where=where)

    def _row(self, episode_id: int) -> int:
        """Row of an episode in the episode table."""
        if episode_id not in self._row_of:
            raise DataError(f"{self._root}: expected one of {len(self._table)} episodes, found {episode_id}.")
        return self._row_of[episode_id]

    @cached_property
    def _row_of(self) -> dict[int, int]:
        return {episode: row for row, episode in enumerate(self._table["episode_index"].to_pylist())}

    @cached_property
    def _starts(self) -> np.ndarray:
        """First row of each episode in its file: `dataset_from_index` counts over the whole dataset."""
        begin = self._table["dataset_from_index"].to_numpy()
        files = np.stack([self._table[f"data/{part}_index"].to_numpy() for part in ("chunk", "file")])
        _, file = np.unique(files, axis=1, return_inverse=True)
        first = np.full(file.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, file, begin)
        return np.asarray(begin - first[file])

    def _data_path(self, row: int) -> Path:
        chunk, file = (self._table[f"data/{part}_index"][row].as_py() for part in ("chunk", "file"))
        return self._info.file(self._info.data_path, chunk_index=chunk, file_index=file)

    @cached_property
    def _videos(self) -> list[str]:
        """The chosen views' columns that are stored as video."""
        return [column for column in self._columns.views.values() if self._info.is_video(column)]

    def _video_path(self, row: int, column: str) -> Path:
        if self._info.video_path is None:
            raise DataError(f"{self._info.path}: expected video_path for the video {column}, found none. Repair it.")
        chunk, file = (self._table[f"videos/{column}/{part}_index"][row].as_py() for part in ("chunk", "file"))
        return self._info.file(self._info.video_path, video_key=column, chunk_index=chunk, file_index=file)

    def _episode_files(self) -> list[Path]:
        files = sorted((self._root / EPISODES).glob("**/*.parquet"))
        if not files:
            raise DataError(f"{self._root / EPISODES}: expected Parquet files, found none. Download the dataset again.")
        return files

    def _read_episode_table(self) -> pa.Table:
        """The episode table in episode order, without its statistics."""
        parts = ("chunk_index", "file_index", "from_timestamp")
        columns = [*EPISODE_COLUMNS, *(f"videos/{column}/{part}" for column in self._videos for part in parts)]
        table = pa.concat_tables([read_table(path, columns) for path in self._episode_files()])
        return table.sort_by("episode_index").combine_chunks()

    def _instructions(self) -> list[str]:
        """One text per episode, empty where the dataset has none."""
        tasks = read_table(self._root / TASKS)
        column = next((name for name in TASK_TEXT if name in tasks.schema.names), None)
        if column is None:
            raise DataError(
                f"{self._root / TASKS}: expected a column {' or '.join(TASK_TEXT)}, "
                f"found {', '.join(tasks.schema.names)}. Repair the dataset."
            )
        known = set(tasks[column].to_pylist())
        texts = []
        for episode, names in zip(
            self._table["episode_index"].to_pylist(), self._table["tasks"].to_pylist(), strict=True
        ):
            if len(names or []) > 1 or not set(names or []) <= known:
                raise DataError(
                    f"{self._root / EPISODES}: episode {episode}: expected one task of {self._root / TASKS}, "
                    f"found {names}. Split the episode or repair the dataset."
                )
            texts.append(names[0] if names else "")
        return texts
