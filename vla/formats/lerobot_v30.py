"""LeRobot v3.0 datasets, read in place: many episodes per Parquet file, images in the table or in video files.

Files by LeRobot 0.4 to 0.6 and by `vla.sim` are read. An episode's rows are found from the episode table and compared
with their own `episode_index`, so that a file that was cut or replaced is noticed.
"""

from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Int64, UInt8

from vla.columns import Columns, Vector
from vla.errors import DataError
from vla.folder import Folder
from vla.formats import EPISODES, Claims, Range
from vla.images import decode_images
from vla.lerobot import INFO, Info, matrix, version_of
from vla.parquet import ParquetRows, read_table
from vla.terms import DatasetSchema, Steps
from vla.video import read_frames

TASKS, EPISODE_TABLES = "meta/tasks.parquet", "meta/episodes"
TASK_TEXT = ("task", "__index_level_0__")
"""The text is the index of a pandas frame: LeRobot 0.6 names it, 0.4 does not."""
EPISODE_COLUMNS = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index", "dataset_from_index"]


def recognises(root: Path) -> bool:
    """Whether the folder's `info.json` says version 3."""
    return version_of(root).startswith("v3.")


def suggest_columns(root: Path) -> Columns:
    """The feature map that the names in `info.json` suggest."""
    return Info.read(Folder(root), version="v3.").suggest_columns()


def open_dataset(folder: Folder, columns: Columns, *, name: str) -> "LeRobotV30":
    """Open the dataset in `folder`, reading its metadata only."""
    return LeRobotV30(folder, columns, name=name)


class LeRobotV30:
    """A dataset; implements `vla.formats.Dataset`."""

    def __init__(self, folder: Folder, columns: Columns, *, name: str) -> None:
        self._folder, self._root, self._columns = folder, folder.root, columns
        self._state, self._actions = Vector.parse(columns.state), Vector.parse(columns.actions)
        self._info = Info.read(folder, version="v3.")
        self._rows = ParquetRows()
        self._table = self._read_episode_table()
        self.schema = DatasetSchema(
            name=name,
            format="lerobot_v30",
            fps=self._info.fps,
            views={view: self._info.image_size(column) for view, column in columns.views.items()},
            state_names=self._state.names(self._info.names),
            action_names=self._actions.names(self._info.names),
            robot=self._info.robot,
        )

    def episodes(self) -> pa.Table:
        """The columns of EPISODES."""
        length = self._table["length"].cast(pa.int64())
        ids = self._table["episode_index"].cast(pa.int64())
        return pa.table([ids, length, pa.array(self._instructions(), pa.string()), length], schema=EPISODES)

    def steps(self, episode_id: int) -> Steps:
        """The numeric columns of an episode."""
        names = tuple(dict.fromkeys(("timestamp", *self._state.columns, *self._actions.columns)))
        table, where = self._read(episode_id, names)
        widths = {name: len(self._info.names(name)) for name in names}
        values = {name: matrix(table[name], widths[name], where=f"{where}, {name}") for name in names}
        return Steps(
            timestamp_T=values["timestamp"][:, 0].astype(np.float64),
            state_TS=self._state.assemble(values),
            actions_TA=self._actions.assemble(values),
        )

    def images(
        self, episode_id: int, view: str, steps_N: Int64[np.ndarray, "N"] | None = None
    ) -> UInt8[np.ndarray, "N Y X 3"]:
        """Frames of one view of an episode."""
        column = self._columns.views[view]
        if self._info.is_video(column):
            frames = self._video_frames(episode_id, view)
            return frames if steps_N is None else frames[steps_N]
        table, where = self._read(episode_id, (column,))
        chosen = table[column] if steps_N is None else table[column].take(pa.array(steps_N))
        return decode_images(chosen, self.schema.views[view], where=f"{where}, {column}")

    def frame_count(self, episode_id: int, view: str) -> int | None:
        """Video files are shared by episodes."""
        return None

    def depth(
        self, episode_id: int, view: str, steps_N: Int64[np.ndarray, "N"] | None = None
    ) -> Float32[np.ndarray, "N Y X"]:
        """Depth in metres."""
        raise DataError(f"{self._root}: expected a view with depth, found {view!r}. Name it in data.columns.depth.")

    def block_starts(self, episode_id: int) -> Int64[np.ndarray, "K"]:
        """An episode is read as a whole."""
        return np.zeros(1, dtype=np.int64)

    def recorded_ranges(self, episode_id: int) -> dict[str, Range]:
        """None are kept."""
        return {}

    def metadata_files(self) -> list[Path]:
        """`info.json`, tasks and episode tables."""
        return sorted([Path(INFO), Path(TASKS), *map(Path, self._folder.names(EPISODE_TABLES, ".parquet"))])

    def episode_files(self, episode_id: int) -> list[Path]:
        """The data file, and the video files of the chosen views."""
        row = self._row(episode_id)
        return [self._data_path(row), *(self._video_path(row, column) for column in self._videos)]

    def data_folders(self) -> tuple[str, ...]:
        """Data and videos."""
        return ("data", "videos")

    def claims(self) -> Claims:
        """Totals are not compared yet."""
        return Claims()

    def _read(self, episode_id: int, columns: tuple[str, ...]) -> tuple[pa.Table, str]:
        """An episode's rows, and its file and number for messages."""
        row = self._row(episode_id)
        start = int(self._starts[row])
        stop = start + int(self._table["length"][row].as_py())
        try:
            path = self._folder.path(self._data_path(row))
            table = self._rows.read(path, start, stop, (*columns, "episode_index"))
        except DataError as error:
            raise DataError(f"Episode {episode_id}: {error}") from None
        where = f"{path}: episode {episode_id}"
        found = pc.unique(table["episode_index"]).to_pylist()
        if found != [episode_id]:
            raise DataError(
                f"{where}: expected its rows at {start} to {stop}, found rows of the episodes {found[:5]}: the file is "
                f"not the one that {EPISODE_TABLES} describes. Download the dataset again."
            )
        return table, where

    def _video_frames(self, episode_id: int, view: str) -> UInt8[np.ndarray, "T Y X 3"]:
        row, column = self._row(episode_id), self._columns.views[view]
        path = self._folder.path(self._video_path(row, column))
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
        files = [self._folder.path(name) for name in self._folder.names(EPISODE_TABLES, ".parquet")]
        if not files:
            raise DataError(
                f"{self._root / EPISODE_TABLES}: expected Parquet files, found none. Download the dataset again."
            )
        return files

    def _read_episode_table(self) -> pa.Table:
        """The episode table in episode order, without its statistics."""
        parts = ("chunk_index", "file_index", "from_timestamp")
        columns = [*EPISODE_COLUMNS, *(f"videos/{column}/{part}" for column in self._videos for part in parts)]
        table = pa.concat_tables([read_table(path, columns) for path in self._episode_files()])
        return table.sort_by("episode_index").combine_chunks()

    def _instructions(self) -> list[str]:
        """One text per episode, empty where the dataset has none."""
        tasks = read_table(self._folder.path(TASKS))
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
                    f"{self._root / EPISODE_TABLES}: episode {episode}: expected one task of {self._root / TASKS}, "
                    f"found {names}. Split the episode or repair the dataset."
                )
            texts.append(names[0] if names else "")
        return texts
