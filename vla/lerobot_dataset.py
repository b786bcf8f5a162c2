"""Reading the episodes of a LeRobot dataset of any version.

The versions differ in how their metadata are written and in where the rows and the frames of an episode lie; what is
done with the rows and the frames is the same. An episode's rows are compared with their own `episode_index`, so that a
file that was cut or replaced is noticed.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64, Int64, UInt8

from vla.arrays import grids, matrix
from vla.columns import Columns, Vector
from vla.errors import ConfigError, DataError
from vla.folder import Folder
from vla.images import decode_images
from vla.lerobot import Info
from vla.lerobot_depth import DepthCode
from vla.lerobot_tasks import EpisodeList, text_of
from vla.parquet import ParquetRows
from vla.terms import DatasetSchema, Range, Steps, Tasks
from vla.video import Videos
from vla.video_backend import VideoBackend

TASK_INDEX = "task_index"
REMEMBERED = 10_000
"""Episodes whose data file is remembered."""
Steps_N = Int64[np.ndarray, "N"] | None


@dataclass(frozen=True, slots=True)
class Span:
    """Where the rows of an episode lie: [start, stop) of a file, relative to the root."""

    path: Path
    start: int
    stop: int
    is_shared: bool
    """Whether rows of other episodes may lie in the file too."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Where the frames of an episode lie: in a video file, relative to the root, from `begin` in seconds."""

    path: Path
    begin: float
    is_shared: bool
    """Whether other episodes may lie in the file too."""


class LeRobotDataset(ABC):
    """All of `vla.formats.Dataset` that does not depend on the version."""

    _depth_code: DepthCode | None = None
    """How depth videos stand for metres; None where the dataset describes that itself."""

    def __init__(self, folder: Folder, columns: Columns, info: Info, *, name: str, video_backend: VideoBackend) -> None:
        self._folder, self._columns, self._info = folder, columns, info
        self._state, self._actions = Vector.parse(columns.state), Vector.parse(columns.actions)
        self._table_rows, self._videos = ParquetRows(), Videos(video_backend)
        self._places: dict[int, tuple[Span, Path]] = {}
        self._widths = {column: len(info.names(column)) for column in (*self._state.columns, *self._actions.columns)}
        if columns.fps not in (None, info.fps):
            raise ConfigError(
                f"data.columns.fps: expected null, as {info.path} says {info.fps}, found {columns.fps}. Remove it."
            )
        self.schema = DatasetSchema(
            name=name,
            format=type(self).__module__.rpartition(".")[2],
            fps=info.fps,
            views={view: info.image_size(column) for view, column in columns.views.items()},
            state_names=self._state.names(info.names),
            action_names=self._actions.names(info.names),
            robot=info.robot,
            state_columns={column: self._widths[column] for column in self._state.columns},
            depth={view: info.depth_size(column) for view, column in columns.depth.items()},
        )
        self._depth_codes = {
            column: self._depth_code or DepthCode.read(info.encoding(column), where=f"{info.path}: {column}")
            for column in columns.depth.values()
            if info.is_video(column)
        }

    @property
    @abstractmethod
    def _listed(self) -> EpisodeList:
        """What the metadata say about the episodes."""

    @property
    @abstractmethod
    def _tasks(self) -> Mapping[int, str]:
        """Task index -> text."""

    @abstractmethod
    def _span(self, row: int) -> Span:
        """Where the rows of an episode are, given its row in the list of episodes."""

    @abstractmethod
    def _clip(self, row: int, column: str) -> Clip:
        """Where the frames of an episode are, given its row in the list of episodes and a column stored as video."""

    def steps(self, episode_id: int) -> Steps:
        """The numeric columns of an episode."""
        row = self._listed.row(episode_id)
        table, where = self._read(row, ("timestamp", *self._widths), 0, int(self._listed.lengths_E[row]))
        values = {name: matrix(table[name], width, where=f"{where}, {name}") for name, width in self._widths.items()}
        return Steps(
            timestamp_T=matrix(table["timestamp"], 1, where=f"{where}, timestamp", dtype=np.float64)[:, 0],
            state_TS=self._state.assemble(values),
            actions_TA=self._actions.assemble(values),
        )

    def images(self, episode_id: int, view: str, steps_N: Steps_N = None) -> UInt8[np.ndarray, "N Y X 3"]:
        """Frames of one view of an episode."""
        column, size = self._columns.views[view], self.schema.views[view]
        if not self._info.is_video(column):
            chosen, where = self._take(episode_id, column, steps_N)
            return decode_images(chosen, size, where=where, steps_N=steps_N)
        path, times_N = self._times(episode_id, column, steps_N)
        where = f"Episode {episode_id}, {column}"
        return self._videos.frames(path, times_N, fps=self._info.fps, size=size, where=where)

    def frame_count(self, episode_id: int, view: str) -> int | None:
        """Frames in the episode's video file, unless that is shared with others."""
        row, column = self._listed.row(episode_id), self._columns.views[view]
        if not self._info.is_video(column) or self._clip(row, column).is_shared:
            return None
        path = self._path(row, self._clip(row, column).path)
        return self._videos.count(path, where=f"Episode {episode_id}, {column}")

    def depth(self, episode_id: int, view: str, steps_N: Steps_N = None) -> Float32[np.ndarray, "N Y X"]:
        """Depth of one view of `columns.depth` in metres, 0 where there is none."""
        if view not in self._columns.depth:
            raise DataError(
                f"{self._folder.root}: expected a view with depth, found {view!r}. Name it in data.columns.depth."
            )
        column, size = self._columns.depth[view], self.schema.depth[view]
        if not self._info.is_video(column):
            chosen, where = self._take(episode_id, column, steps_N)
            return grids(chosen, size, where=where)
        path, times_N = self._times(episode_id, column, steps_N)
        where, code = f"Episode {episode_id}, {column}", self._depth_codes[column]
        return self._videos.depth(path, times_N, fps=self._info.fps, size=size, decode=code, where=where)

    def block_starts(self, episode_id: int) -> Int64[np.ndarray, "K"]:
        """Row groups of images, key frames of video, those of the first view."""
        row, column = self._listed.row(episode_id), next(iter(self._columns.views.values()), None)
        if column is None:
            return np.zeros(1, dtype=np.int64)
        if self._info.is_video(column):
            clip = self._clip(row, column)
            times_K = self._videos.key_times(self._path(row, clip.path), where=f"Episode {episode_id}, {column}")
            starts_K = np.rint((times_K - clip.begin) * self._info.fps).astype(np.int64)
        else:
            span = self._span(row)
            starts_K = self._table_rows.group_starts(self._path(row, span.path)) - span.start
        inside_K = (starts_K > 0) & (starts_K < self._listed.lengths_E[row])
        return np.append(0, np.unique(starts_K[inside_K]))

    def tasks(self, episode_id: int) -> Tasks | None:
        """By the list of episodes, and by the column `task_index` where there is one."""
        row = self._listed.row(episode_id)
        listed, (_, path) = frozenset(self._listed.tasks(row)), self._located(row)
        if not listed or TASK_INDEX not in self._table_rows.schema(path).names:
            return None
        table, _ = self._read(row, (TASK_INDEX,), 0, int(self._listed.lengths_E[row]))
        numbers = table[TASK_INDEX].unique().to_pylist()
        return Tasks(listed, frozenset(self._tasks.get(number, f"(number {number})") for number in numbers))

    def episode_files(self, episode_id: int) -> list[Path]:
        """The data file, and the video files of the chosen views and depths."""
        row = self._listed.row(episode_id)
        return [self._span(row).path, *(self._clip(row, column).path for column in self._video_columns)]

    def data_folders(self) -> tuple[str, ...]:
        """Data, and the videos of the chosen columns: those of other cameras lie beside them."""
        return ("data", *(f"videos/**/{escape(column)}" for column in self._video_columns))

    @cached_property
    def _video_columns(self) -> list[str]:
        """The chosen columns that are stored as video."""
        chosen = dict.fromkeys((*self._columns.views.values(), *self._columns.depth.values()))
        return [column for column in chosen if self._info.is_video(column)]

    def _episode_columns(self) -> list[pa.Array]:
        """The columns of `vla.formats.EPISODES`; every step is supervised."""
        lengths = pa.array(self._listed.lengths_E)
        return [pa.array(self._listed.ids_E), lengths, self._instructions.dictionary_decode(), lengths]

    @cached_property
    def _instructions(self) -> pa.DictionaryArray:
        """One text per episode: what `columns.instruction` says in its first row, else its only task.

        Data files are opened for those episodes alone of which the metadata leave it open. Empty where there is no
        task, and where the data file is missing or damaged: whoever reads such an episode is told.
        """
        listed, column = self._listed, self._columns.instruction
        if column is None and (listed.counts_E > 1).any():
            row = int(np.argmax(listed.counts_E > 1))
            choices = ", ".join(self._info.task_columns()) or "none that could"
            raise DataError(
                f"{listed.where}: episode {listed.ids_E[row]}: expected one task, found {listed.tasks(row)}. Name the "
                f"column that says which one holds in data.columns.instruction (the dataset has {choices})."
            )
        if column is None:
            return listed.instructions({})
        is_open_E = listed.counts_E != 1 if self._info.is_task_index(column) else listed.counts_E >= 0
        return listed.instructions(self._texts_in_data(np.flatnonzero(is_open_E).tolist(), column))

    def _texts_in_data(self, rows: list[int], column: str) -> dict[int, str]:
        """What a column of the data files says in the first rows of some episodes: row in the list -> text."""
        here = {row: path for row in rows if self._folder.has(path := self._span(row).path)}
        if self._folder.listed is None:
            self._folder.paths(dict.fromkeys(path.as_posix() for path in here.values()))  # fetched together
        return {row: self._text_in_data(row, column) if row in here else "" for row in rows}

    def _text_in_data(self, row: int, column: str) -> str:
        try:
            table, where = self._read(row, (column,), 0, 1)
            return text_of(table[column], self._tasks, where=f"{where}, {column}")
        except DataError:
            if self._is_sound(row):
                raise
            return ""

    def _is_sound(self, row: int) -> bool:
        try:
            self.steps(int(self._listed.ids_E[row]))
        except DataError:
            return False
        return True

    def _take(self, episode_id: int, column: str, steps_N: Steps_N) -> tuple[pa.ChunkedArray, str]:
        """A column's values at some steps of an episode; only what lies between the first and the last is decoded."""
        row = self._listed.row(episode_id)
        wanted_N = self._within(row, steps_N)
        first, last = (int(wanted_N.min()), int(wanted_N.max())) if len(wanted_N) else (0, 0)
        table, where = self._read(row, (column,), first, last + 1)
        in_order = len(wanted_N) == len(table) and bool((np.diff(wanted_N) == 1).all())
        values = table[column] if in_order else table[column].take(pa.array(wanted_N - first))
        return values, f"{where}, {column}"

    def _times(self, episode_id: int, column: str, steps_N: Steps_N) -> tuple[Path, Float64[np.ndarray, "N"]]:
        """A video file, and the times at which it shows some steps of an episode."""
        row = self._listed.row(episode_id)
        clip = self._clip(row, column)
        return self._path(row, clip.path), clip.begin + self._within(row, steps_N) / self._info.fps

    def _within(self, row: int, steps_N: Steps_N) -> Int64[np.ndarray, "N"]:
        """The wanted steps, all where None. Steps beyond the episode would be another's: that is a defect of ours."""
        length = int(self._listed.lengths_E[row])
        if steps_N is None:
            return np.arange(length)
        if len(steps_N) and not 0 <= steps_N.min() <= steps_N.max() < length:
            raise IndexError(f"episode {self._listed.ids_E[row]} has {length} steps, not {steps_N}")
        return steps_N

    def _read(self, row: int, columns: tuple[str, ...], first: int, stop: int) -> tuple[pa.Table, str]:
        """Steps [first, stop) of an episode, and its file and number for messages."""
        episode, (span, path) = int(self._listed.ids_E[row]), self._located(row)
        if stop <= first:
            raise DataError(f"{path}: episode {episode}: expected steps, found none. Leave out the episode.")
        try:
            start = span.start + first
            table = self._table_rows.read(path, start, span.start + stop, (*columns, "episode_index"))
            count = self._table_rows.count(path)
        except DataError as error:
            raise DataError(f"Episode {episode}: {error}") from None
        where = f"{path}: episode {episode}"
        if not span.is_shared and count != span.stop:
            raise DataError(
                f"{where}: expected {span.stop} rows as {self._listed.where} says, found {count}. "
                f"Download the dataset again."
            )
        numbers = table["episode_index"].to_numpy()
        if (numbers != episode).any():
            found = np.unique(numbers)[:5].tolist()
            raise DataError(
                f"{where}: expected its rows at {start} to {span.start + stop}, found rows of the episodes {found}: "
                f"the file is not the one that {self._listed.where} describes. Download the dataset again."
            )
        return table, where

    def _located(self, row: int) -> tuple[Span, Path]:
        """Where the rows of an episode are, and the checked path; remembered, as it costs as much as an image."""
        if row not in self._places:
            if len(self._places) == REMEMBERED:
                self._places.clear()
            span = self._span(row)
            self._places[row] = span, self._path(row, span.path)
        return self._places[row]

    def _path(self, row: int, path: Path) -> Path:
        """The checked path of a file of an episode."""
        try:
            return self._folder.path(path)
        except DataError as error:
            raise DataError(f"Episode {self._listed.ids_E[row]}: {error}") from None

    def _ranges(self, stats: Mapping[str, Range], *, where: str) -> dict[str, Range]:
        """The ranges of `state` and `actions` out of those of columns, unless a part of them is a sum."""
        ranges = {}
        for key, vector, dims in (
            ("state", self._state, self.schema.state_dim),
            ("actions", self._actions, self.schema.action_dim),
        ):
            if not any(part.is_sum for part in vector.parts) and stats.keys() >= set(vector.columns):
                low, high = (
                    np.concatenate([stats[part.column][side][part.start : part.stop] for part in vector.parts])
                    for side in (0, 1)
                )
                if len(low) != dims or len(high) != dims:
                    raise DataError(
                        f"{where}: {key}: expected the range of {dims} dimensions, found {len(low)} minima and "
                        f"{len(high)} maxima. Repair the dataset."
                    )
                ranges[key] = (low, high)
        return ranges
