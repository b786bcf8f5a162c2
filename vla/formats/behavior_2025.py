"""BEHAVIOR-1K's 2025-challenge-demos, read in place: LeRobot v2.1 with one chunk per task and sparse episode numbers.

Episode e belongs to task e // 10000, so `data.select.episodes: ["40000:50000"]` is task 4; instructions are the
sentences of `tasks.jsonl`. Rows have no `frame_index`, and `observation.task_info` varies in length and cannot be used.
Cameras are chosen by `data.columns.views`. Those of `seg_instance_id` can be views as well and show the palette's
colours as the video holds them (what they stand for is in `meta/episodes`); those of depth go to `data.columns.depth`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from vla import artifacts
from vla.columns import Columns, Part
from vla.errors import ConfigError, DataError
from vla.folder import Folder
from vla.formats import EPISODES, Claims
from vla.lerobot import Info, described, version_of
from vla.lerobot_columns import DepthCode
from vla.lerobot_v2 import EpisodeFiles

VERSION = "v2.1"
STATE = "observation.state"
STATE_PARTS = (
    f"{STATE}[253:256]",  # velocity of the base
    f"{STATE}[236:240]",  # trunk
    f"{STATE}[158:165]",  # left arm
    f"{STATE}[197:204]",  # right arm
    f"sum({STATE}[193:195])",  # left gripper, two fingers
    f"sum({STATE}[232:234])",  # right gripper
)
"""The 23 of 256 dimensions that the challenge's policies use (openpi's `b1k_policy.py`)."""
EFFORTS = (112, 140)
"""`joint_qeffort` of R1Pro in OmniGibson's PROPRIOCEPTION_INDICES (`omnigibson/learning/utils/eval_utils.py`).

The dataset's own notes (`docs/challenge/dataset.md` of BEHAVIOR-1K, 2025) call these readings wrong: the observations
were made by replaying states without physics.
"""
PROPRIOCEPTION = 256
DEPTH = DepthCode(near=0.0, far=10.0, shift=3.5, bits=14, unused_bits=0)
"""The code that the 2025 videos were written with (`quantize_depth` of `omnigibson/learning/utils/obs_utils.py`).

Later versions of that file use 16 bits from 0.01 m, for other data. The codes went through 10-bit video, so that depth
comes back in about 220 steps, some millimetres apart near the camera and centimetres far from it.
"""


@dataclass(frozen=True, slots=True)
class Annotation:
    """What is done in some steps of an episode."""

    start: int
    stop: int
    text: str
    """A skill such as "pick up from"."""


def recognises(root: Path) -> bool:
    """Whether the folder's `info.json` says version 2.1 and files by task."""
    return version_of(root).startswith(VERSION) and "task-" in str(described(root).get("data_path"))


def suggest_columns(root: Path) -> Columns:
    """The challenge's state, all actions, and the colour cameras."""
    info = Info.read(Folder(root), version=VERSION)
    return info.suggest_columns(info.cameras, several_tasks=False).model_copy(update={"state": STATE_PARTS})


def open_dataset(folder: Folder, columns: Columns, *, name: str) -> "Behavior2025":
    """Open the dataset in `folder`, reading its metadata only."""
    return Behavior2025(folder, columns, name=name)


class Behavior2025(EpisodeFiles):
    """A dataset; implements `vla.formats.Dataset`."""

    _depth_code = DEPTH

    def __init__(self, folder: Folder, columns: Columns, *, name: str) -> None:
        super().__init__(folder, columns, version=VERSION, name=name)
        for part in (*self._state.parts, *self._actions.parts):
            self._check_efforts(part)

    def episodes(self) -> pa.Table:
        """The columns of EPISODES."""
        return pa.table(self._episode_columns(), schema=EPISODES)

    def claims(self) -> Claims:
        """Totals by `info.json`."""
        return Claims(episodes=self._info.episodes, steps=self._info.steps)

    def annotations(self, episode_id: int) -> list[Annotation]:
        """The skills that an episode consists of, in the order of the file; none where it has not been annotated."""
        self._listed.row(episode_id)
        chunk = episode_id // self._info.chunk_size
        path = self._folder.root / f"annotations/task-{chunk:04d}/episode_{episode_id:08d}.json"
        if not path.is_file():
            return []
        values = artifacts.read_json(path, made_by="dvc repro -f -s download")
        try:
            return [
                Annotation(int(start), int(stop), ", ".join(skill["skill_description"]))
                for skill in values["skill_annotation"]
                for start, stop in _spans(skill["frame_duration"])
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: episode {episode_id}: expected skills with frame_duration and skill_description, "
                f"found {error!r}. Download the file again."
            ) from None

    @property
    def _texts(self) -> dict[str, str]:
        """Episodes may name a task by its short name."""
        return {str(row["task_name"]): str(row["task"]) for row in self._task_rows if "task_name" in row}

    def _check_efforts(self, part: Part) -> None:
        dims = len(self._info.names(part.column))
        first, end = part.start or 0, part.stop or dims
        if part.column == STATE and dims == PROPRIOCEPTION and first < EFFORTS[1] and end > EFFORTS[0]:
            raise ConfigError(
                f"data.columns: expected parts of {STATE} without its joint efforts, which were recorded wrongly and "
                f"lie at [{EFFORTS[0]}:{EFFORTS[1]}], found [{first}:{end}]. Leave them out."
            )


def _spans(durations: list[Any]) -> list[list[int]]:
    """The spans of a skill: one [first, end], or several."""
    return durations if durations and isinstance(durations[0], list) else [durations]
