"""Dataset formats: one file each, with the three functions of `Format`.

Data is read in place with plain pyarrow; opening a dataset reads its metadata only.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64, UInt8

from vla.columns import Columns
from vla.folder import Folder
from vla.terms import DatasetSchema, Range, Steps, Tasks
from vla.video_backend import VideoBackend

EPISODES = pa.schema(
    [
        ("episode_id", pa.int64()),
        ("length", pa.int64()),  # steps
        ("instruction", pa.string()),  # empty where the dataset has none
        # Number of steps whose actions are supervised: `length`, or fewer after a terminal step. Null where the episode
        # was merely cut off: its last action goes on being the right one.
        ("supervised", pa.int64()),
    ]
)
"""The table that `Dataset.episodes` returns."""
PIECE_BYTES = 64_000_000
"""Pixels of an episode that are decoded at a time by who reads all of it."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a dataset says about itself as a whole, for comparison with what is there; None where it says nothing."""

    episodes: int | None = None
    steps: int | None = None


class Recordings(Protocol):
    """Episodes that can be read. All errors are DataError and name the file, and the episode where there is one.

    Can be pickled; a copy in another process starts with nothing open. Not for use by several threads at once.
    """

    schema: DatasetSchema

    def episodes(self) -> pa.Table:
        """One row per episode in dataset order, with the columns of EPISODES."""
        ...

    def steps(self, episode_id: int) -> Steps:
        """The numeric columns of an episode, unchecked (NaN stays NaN); `length` rows."""
        ...

    def images(
        self, episode_id: int, view: str, steps_N: Int64[np.ndarray, "N"] | None = None
    ) -> UInt8[np.ndarray, "N Y X 3"]:
        """Frames of one view as RGB: those of the given steps in the given order, else all of the episode."""
        ...

    def frame_count(self, episode_id: int, view: str) -> int | None:
        """Frames in the episode's own video file, without decoding; None where a view has no file of its own."""
        ...

    def depth(
        self, episode_id: int, view: str, steps_N: Int64[np.ndarray, "N"] | None = None
    ) -> Float32[np.ndarray, "N Y X"]:
        """Depth of one view of `columns.depth` in metres, 0 where there is none; steps as in `images`."""
        ...

    def block_starts(self, episode_id: int) -> Int64[np.ndarray, "K"]:
        """The ascending steps, from 0, at which reading images can begin without decoding what lies before."""
        ...

    def recorded_ranges(self, episode_id: int) -> Mapping[str, Range]:
        """The range of `state` and `actions` by the dataset's own statistics, where it has them for whole columns."""
        ...

    def tasks(self, episode_id: int) -> Tasks | None:
        """What the metadata and the rows say that an episode is about; None where one of them says nothing."""
        ...


class Dataset(Recordings, Protocol):
    """The recordings of one folder, and the files that they lie in."""

    def metadata_files(self) -> list[Path]:
        """The files that describe the whole dataset, relative to the root, sorted."""
        ...

    def episode_files(self, episode_id: int) -> list[Path]:
        """The files that hold an episode's data in the chosen columns, relative to the root, missing ones too."""
        ...

    def data_folders(self) -> tuple[str, ...]:
        """Folders whose files should all be an episode's: patterns of `Path.glob`, or "" for the root."""
        ...

    def claims(self) -> Claims:
        """Totals by the metadata."""
        ...


@runtime_checkable
class NamesTasks(Protocol):
    """What a dataset offers besides when its tasks have short names."""

    def task_names(self) -> Mapping[int, str]:
        """Episode -> the short name of its task, for episodes that have one."""
        ...


@dataclass(frozen=True, slots=True)
class Annotation:
    """What is done in some steps of an episode."""

    start: int
    stop: int
    text: str
    """A skill such as "pick up from"."""


@runtime_checkable
class Annotates(Protocol):
    """What a dataset offers besides when it says what is done in the course of an episode."""

    def annotated(self) -> list[int]:
        """The episodes that annotations are there of, without reading them."""
        ...

    def annotations(self, episode_id: int) -> list[Annotation]:
        """The skills that an episode consists of, none where it has not been annotated."""
        ...


class Format(Protocol):
    """What a module of this folder offers."""

    def recognises(self, root: Path) -> bool:
        """Whether the folder looks like a dataset of this format, whatever its contents."""
        ...

    def suggest_columns(self, root: Path) -> Columns:
        """A feature map that fits the folder's own names, as a start for `params.yaml`."""
        ...

    def open_dataset(
        self, folder: Folder, columns: Columns, *, name: str, video_backend: VideoBackend = "pyav"
    ) -> Dataset:
        """Open the dataset in `folder`; `name` is the identity that episode uids are made of."""
        ...


def pieces(length: int, size: tuple[int, int]) -> Iterator[Int64[np.ndarray, "N"]]:
    """All steps of an episode, in pieces whose images of `size` (rows, columns) take PIECE_BYTES at most."""
    most = max(1, PIECE_BYTES // (size[0] * size[1] * 3))
    for start in range(0, length, most):
        yield np.arange(start, min(start + most, length))
