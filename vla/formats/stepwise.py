"""Stepwise Parquet: one row per step, the episodes one after the other, each from a row where `is_first` is set.

The files (`*.parquet`, in the order of their names) have no metadata beside them. So opening a dataset reads the flags
and the instructions of all rows, the rate has to be given (`data.columns.fps`), and episodes are numbered through. An
episode lies in one file; where `is_last` exists, it has to agree with `is_first`. After `is_terminal` nothing is
supervised; an episode without it was merely cut off. A view is the column of its name, or of its name and `_bytes`.
"""

from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64, UInt8

from vla.arrays import matrix
from vla.columns import Columns, Vector, short_names
from vla.errors import ConfigError, DataError
from vla.folder import Folder
from vla.formats import EPISODES, Claims
from vla.images import decode_images
from vla.lerobot import INFO
from vla.parquet import ParquetRows
from vla.stepwise import FIRST, Layout, find_episodes
from vla.terms import DatasetSchema, Range, Steps
from vla.video_backend import VideoBackend

ENDING = ".parquet"
STATES, ACTIONS = ("state", "observation.state"), ("action", "actions")
PROMPTS = ("prompt", "instruction", "task", "language_instruction")
Steps_N = Int64[np.ndarray, "N"] | None


def recognises(root: Path) -> bool:
    """Whether there are Parquet files with a flag `is_first`, and no metadata of LeRobot."""
    names = [] if (root / INFO).exists() else Folder(root).names(suffix=ENDING)
    try:
        return bool(names) and bool(pq.read_schema(root / names[0]).field(FIRST).type == pa.bool_())
    except (pa.ArrowException, OSError, KeyError):
        return False


def suggest_columns(root: Path) -> Columns:
    """The feature map that the names in the first file suggest, with one step per second for want of the rate."""
    path = root / _files(Folder(root))[0]
    layout = Layout(path, ParquetRows().schema(path))
    names, texts = layout.schema.names, layout.texts
    return Columns(
        state=next((name for name in STATES if name in names), STATES[0]),
        actions=next((name for name in ACTIONS if name in names), ACTIONS[0]),
        views=dict(zip(short_names(layout.images), layout.images, strict=True)),
        instruction=next((name for name in (*PROMPTS, *texts) if name in texts), None),
        fps=1,
    )


def open_dataset(
    folder: Folder,
    columns: Columns,
    *,
    name: str,
    video_backend: VideoBackend = "pyav",  # noqa: ARG001  # there are no video files
) -> "Stepwise":
    """Open the dataset in `folder`, reading the flags and the instructions of all rows."""
    return Stepwise(folder, columns, name=name)


class Stepwise:
    """A dataset; implements `vla.formats.Dataset`."""

    def __init__(self, folder: Folder, columns: Columns, *, name: str) -> None:
        if columns.fps is None or columns.depth:
            raise ConfigError(
                f"data.columns: expected fps, the steps per second, which stepwise Parquet does not record, and no "
                f"depth, which it has not, found fps {columns.fps} and depth {dict(columns.depth)}. Correct them."
            )
        self._root, self._rows = folder.root, ParquetRows()
        self._files = _files(folder)
        self._paths = folder.paths(self._files)
        self._layout = Layout(self._paths[0], self._rows.schema(self._paths[0]))
        self._state, self._actions = Vector.parse(columns.state), Vector.parse(columns.actions)
        self._columns = {view: self._layout.image(column) for view, column in columns.views.items()}
        self._find_episodes(self._layout.text(columns.instruction))
        self._names = {column: self._dimensions(column) for column in (*self._state.columns, *self._actions.columns)}
        self.schema = DatasetSchema(
            name=name,
            format="stepwise",
            fps=columns.fps,
            views={view: self._image_size(column) for view, column in self._columns.items()},
            state_names=self._state.names(self._names.__getitem__),
            action_names=self._actions.names(self._names.__getitem__),
            robot="unknown",
            state_columns={column: len(self._names[column]) for column in self._state.columns},
        )

    def episodes(self) -> pa.Table:
        """The columns of EPISODES."""
        return self._table

    def steps(self, episode_id: int) -> Steps:
        """The numeric columns of an episode; the timestamps follow from `data.columns.fps`."""
        length = self._length(episode_id)
        table, where = self._read(episode_id, tuple(self._names), 0, length)
        widths = {column: len(names) for column, names in self._names.items()}
        values = {name: matrix(table[name], width, where=f"{where}, {name}") for name, width in widths.items()}
        return Steps(
            timestamp_T=np.arange(length) / self.schema.fps,
            state_TS=self._state.assemble(values),
            actions_TA=self._actions.assemble(values),
        )

    def images(self, episode_id: int, view: str, steps_N: Steps_N = None) -> UInt8[np.ndarray, "N Y X 3"]:
        """Frames of one view; only what lies between the first and the last wanted step is read."""
        length, column, size = self._length(episode_id), self._columns[view], self.schema.views[view]
        wanted_N = np.arange(length) if steps_N is None else steps_N
        if not len(wanted_N):
            return np.empty((0, *size, 3), dtype=np.uint8)
        first, last = int(wanted_N.min()), int(wanted_N.max())
        if first < 0 or last >= length:
            raise IndexError(f"episode {episode_id} has {length} steps, not {wanted_N}")
        table, where = self._read(episode_id, (column,), first, last + 1)
        chosen = table[column].take(pa.array(wanted_N - first))
        return decode_images(chosen, size, where=f"{where}, {column}", steps_N=wanted_N)

    def frame_count(self, episode_id: int, view: str) -> int | None:  # noqa: ARG002  # there are no video files
        """None."""
        self._row(episode_id)
        return None

    def depth(
        self,
        episode_id: int,
        view: str,
        steps_N: Steps_N = None,  # noqa: ARG002  # there is no depth
    ) -> Float32[np.ndarray, "N Y X"]:
        """Raises DataError."""
        raise DataError(
            f"{self._root}: episode {episode_id}: expected a view with depth, found {view!r}: stepwise Parquet has "
            f"none. Take it out of data.columns.depth."
        )

    def block_starts(self, episode_id: int) -> Int64[np.ndarray, "K"]:
        """The row groups."""
        start, length = self._start_E[self._row(episode_id)], self._length(episode_id)
        starts_G = self._rows.group_starts(self._path(episode_id)) - start
        return np.append(0, starts_G[(starts_G > 0) & (starts_G < length)])

    def recorded_ranges(self, episode_id: int) -> dict[str, Range]:
        """The format has no statistics."""
        self._row(episode_id)
        return {}

    def tasks(self, episode_id: int) -> None:
        """The rows alone have instructions."""
        self._row(episode_id)

    def metadata_files(self) -> list[Path]:
        """All files: where the episodes of one begin, and how they are numbered, is known from all before it."""
        return [Path(name) for name in self._files]

    def episode_files(self, episode_id: int) -> list[Path]:
        """The file that the episode lies in."""
        return [Path(self._files[self._file_E[self._row(episode_id)]])]

    def data_folders(self) -> tuple[str, ...]:
        """The whole dataset."""
        return ("",)

    def claims(self) -> Claims:
        """The format has no totals."""
        return Claims()

    def _find_episodes(self, prompt: str) -> None:
        """Number the episodes of all files."""
        found = [find_episodes(path, self._layout.flags, prompt) for path in self._paths]
        self._file_E = np.repeat(np.arange(len(found)), [len(each.start_E) for each in found])
        self._start_E = np.concatenate([each.start_E for each in found])
        if not len(self._start_E):
            raise DataError(f"{self._root}: expected rows, found {len(found)} empty files. Download the dataset again.")
        supervised_E = np.concatenate([each.supervised_E for each in found])
        self._table = pa.table(
            [
                np.arange(len(self._start_E)),
                np.concatenate([each.length_E for each in found]),
                list(chain.from_iterable(each.instructions for each in found)),
                pa.array(supervised_E, mask=supervised_E < 0),
            ],
            schema=EPISODES,
        )

    def _dimensions(self, column: str) -> tuple[str, ...]:
        """One name per dimension, by the first row: the column's own for a plain number, else `column_0`, ..."""
        self._layout.field(column)
        table, where = self._read(0, (column,), 0, 1)
        value = table[column][0]
        width = len(value) if isinstance(value, pa.ListScalar) and value.is_valid else 1
        matrix(table[column], width, where=f"{where}, {column}")  # raises where these are no numbers
        return tuple(f"{column}_{index}" for index in range(width)) if isinstance(value, pa.ListScalar) else (column,)

    def _image_size(self, column: str) -> tuple[int, int]:
        """Rows, columns of the first image, which all others of the view have."""
        table, where = self._read(0, (column,), 0, 1)
        rows, columns = decode_images(table[column], None, where=f"{where}, {column}").shape[1:3]
        return rows, columns

    def _read(self, episode_id: int, columns: tuple[str, ...], first: int, stop: int) -> tuple[pa.Table, str]:
        """Steps [first, stop) of an episode, and its file and number for messages."""
        start, path = int(self._start_E[self._row(episode_id)]), self._path(episode_id)
        try:
            return self._rows.read(path, start + first, start + stop, columns), f"{path}: episode {episode_id}"
        except DataError as error:
            raise DataError(f"Episode {episode_id}: {error}") from None

    def _row(self, episode_id: int) -> int:
        """Row of an episode in the table of episodes."""
        if not 0 <= episode_id < len(self._table):
            raise DataError(f"{self._root}: expected one of {len(self._table)} episodes, found {episode_id}.")
        return episode_id

    def _length(self, episode_id: int) -> int:
        return int(self._table["length"][self._row(episode_id)].as_py())

    def _path(self, episode_id: int) -> Path:
        return self._paths[self._file_E[self._row(episode_id)]]


def _files(folder: Folder) -> list[str]:
    names = folder.names(suffix=ENDING)
    if not names:
        raise DataError(f"{folder.root}: expected files *{ENDING}, found none. Correct the path or download again.")
    return names
