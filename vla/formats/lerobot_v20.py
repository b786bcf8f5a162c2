"""LeRobot v2.0 datasets, read in place: one Parquet file per episode, images in it or in video files beside it."""

from pathlib import Path

import pyarrow as pa

from vla.columns import Columns
from vla.folder import Folder
from vla.formats import EPISODES, Claims
from vla.lerobot import version_of
from vla.lerobot_v2 import EpisodeFiles, suggest
from vla.video_backend import VideoBackend

VERSION = "v2.0"


def recognises(root: Path) -> bool:
    """Whether the folder's `info.json` says version 2.0."""
    return version_of(root).startswith(VERSION)


def suggest_columns(root: Path) -> Columns:
    """The feature map that the names in `info.json` suggest."""
    return suggest(root, version=VERSION)


def open_dataset(folder: Folder, columns: Columns, *, name: str, video_backend: VideoBackend = "pyav") -> "LeRobotV20":
    """Open the dataset in `folder`, reading its metadata only."""
    return LeRobotV20(folder, columns, version=VERSION, name=name, video_backend=video_backend)


class LeRobotV20(EpisodeFiles):
    """A dataset; implements `vla.formats.Dataset`."""

    def episodes(self) -> pa.Table:
        """The columns of EPISODES."""
        return pa.table(self._episode_columns(), schema=EPISODES)

    def claims(self) -> Claims:
        """Totals by `info.json`."""
        return Claims(episodes=self._info.episodes, steps=self._info.steps)
