"""Dataset formats: one file each, with a function `open_dataset(root, columns, *, name) -> Dataset`.

Data is read in place with plain pyarrow; opening a dataset reads its metadata only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from vla.config import Config
from vla.terms import DatasetSchema, Steps


class Columns(Config):
    """Which columns of the dataset are what (section `data.columns`)."""

    state: str
    """Proprioception column, for example `observation.state`."""
    actions: str
    """Action column, for example `action`."""
    views: Mapping[str, str]
    """View name -> image column, in the order in which the policy sees the views."""


class Dataset(Protocol):
    """A readable dataset. All errors are DataError and name the file, and the episode where there is one."""

    schema: DatasetSchema

    def episodes(self) -> pa.Table:
        """One row per episode in dataset order: episode_id int64, length int64 (steps), instruction string."""
        ...

    def steps(self, episode_id: int) -> Steps:
        """The numeric columns of an episode, unchecked (NaN stays NaN); `length` rows."""
        ...

    def images(self, episode_id: int, view: str) -> UInt8[np.ndarray, "T Y X 3"]:
        """All frames of one view of an episode, decoded to RGB."""
        ...

    def files(self) -> list[Path]:
        """Every file that the episodes' data lie in, relative to the root, sorted."""
        ...


class Format(Protocol):
    """What a module of this folder offers."""

    def open_dataset(self, root: Path, columns: Columns, *, name: str) -> Dataset:
        """Open the dataset in the folder `root`; `name` is the identity that episode uids are made of."""
        ...
