"""BEHAVIOR-1K's 2025-challenge-demos, read in place: LeRobot v2.1 with one chunk per task and sparse episode numbers.

Episode e belongs to task e // 10000, so `data.select.episodes: ["40000:50000"]` is task 4; instructions are the
sentences of `tasks.jsonl`. Rows have no `frame_index`, and `observation.task_info` varies in length and cannot be used.
Cameras are chosen by `data.columns.views`; those of depth go to `data.columns.depth`. Those of `seg_instance_id` can be
views as well and show a palette's colours, as the video holds them; `Behavior2025.instance_ids` makes ids of these.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from vla import artifacts
from vla.columns import Columns, Part
from vla.errors import ConfigError, DataError
from vla.folder import Folder
from vla.formats import EPISODES, Annotation, Claims
from vla.lerobot import Info, described, version_of
from vla.lerobot_depth import DepthCode
from vla.lerobot_v2 import EpisodeFiles
from vla.omnigibson import CAMERAS, instance_ids
from vla.video_backend import VideoBackend

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
SEGMENTATION = {f"observation.images.seg_instance_id.{camera}": middle for camera, middle in CAMERAS.items()}
"""Column -> the middle of the keys about its camera in `meta/episodes`."""
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


def recognises(root: Path) -> bool:
    """Whether the folder's `info.json` says version 2.1 and files by task."""
    return version_of(root).startswith(VERSION) and "task-" in str(described(root).get("data_path"))


def suggest_columns(root: Path) -> Columns:
    """The challenge's state, all actions, and the colour cameras."""
    info = Info.read(Folder(root), version=VERSION)
    return info.suggest_columns(info.cameras, several_tasks=False).model_copy(update={"state": STATE_PARTS})


def open_dataset(
    folder: Folder, columns: Columns, *, name: str, video_backend: VideoBackend = "pyav"
) -> "Behavior2025":
    """Open the dataset in `folder`, reading its metadata only."""
    return Behavior2025(folder, columns, name=name, video_backend=video_backend)


class Behavior2025(EpisodeFiles):
    """A dataset; implements `vla.formats.Dataset`, `NamesTasks` and `Annotates`."""

    _depth_code = DEPTH

    def __init__(self, folder: Folder, columns: Columns, *, name: str, video_backend: VideoBackend) -> None:
        super().__init__(folder, columns, version=VERSION, name=name, video_backend=video_backend)
        for part in (*self._state.parts, *self._actions.parts):
            self._check_efforts(part)

    def episodes(self) -> pa.Table:
        """The columns of EPISODES."""
        return pa.table(self._episode_columns(), schema=EPISODES)

    def claims(self) -> Claims:
        """Totals by `info.json`."""
        return Claims(episodes=self._info.episodes, steps=self._info.steps)

    def task_names(self) -> Mapping[int, str]:
        """By `task_name` of `tasks.jsonl`."""
        names = {text: name for name, text in self._texts.items()}
        rows = enumerate(self._listed.ids_E.tolist())
        return {number: names[text] for row, number in rows for text in self._listed.tasks(row) if text in names}

    def annotated(self) -> list[int]:
        """By the listing of the folder `annotations`."""
        found = set(self._folder.root.glob("annotations/task-*/*.json"))
        return [number for number in self._listed.ids_E.tolist() if self._about(number, "annotations") in found]

    def annotations(self, episode_id: int) -> list[Annotation]:
        """The skills that an episode consists of, in the order of the file; none where it has not been annotated."""
        self._listed.row(episode_id)
        path = self._about(episode_id, "annotations")
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

    def instance_ids(
        self, episode_id: int, view: str, steps_N: Int64[np.ndarray, "N"] | None = None
    ) -> Int64[np.ndarray, "N Y X"]:
        """The instance that each pixel of a view of `seg_instance_id` shows; steps as in `images`.

        At an edge the blurred colour of a pixel may be nearest to that of a third instance.
        """
        column = self._columns.views[view]
        if column not in SEGMENTATION:
            raise DataError(
                f"{self._folder.root}: {view}: expected one of {', '.join(SEGMENTATION)}, found {column}. "
                f"Name it in data.columns.views."
            )
        middle = SEGMENTATION[column]
        values = self._described(episode_id)
        ids = next((found for key, found in values.items() if key.endswith(f"{middle}unique_ins_ids")), None)
        if not isinstance(ids, list) or not ids or not all(isinstance(each, int) for each in ids):
            raise self._undescribed(episode_id, f"the ids {middle}unique_ins_ids", ids)
        images = self.images(episode_id, view, steps_N)
        ids_NYX = np.empty(images.shape[:3], dtype=np.int64)
        for image, target in zip(images, ids_NYX, strict=True):
            target[:] = instance_ids(image, ids)
        return ids_NYX

    def instances(self, episode_id: int) -> dict[int, str]:
        """What the instances of an episode are: id -> path in the simulated scene, by `ins_id_mapping`."""
        found = self._described(episode_id).get("ins_id_mapping")
        try:
            return {int(number): str(path) for number, path in json.loads(str(found)).items()}
        except (AttributeError, ValueError):
            raise self._undescribed(episode_id, "ins_id_mapping, JSON of ids and paths", found) from None

    @property
    def _texts(self) -> dict[str, str]:
        """Episodes may name a task by its short name."""
        return {str(row["task_name"]): str(row["task"]) for row in self._task_rows if "task_name" in row}

    def _described(self, episode_id: int) -> dict[str, Any]:
        """What the dataset says about the recording of an episode; not among the files that are needed otherwise."""
        self._listed.row(episode_id)
        path = self._about(episode_id, "meta/episodes")
        if not path.is_file():
            raise DataError(f"{path}: expected the description of episode {episode_id}, found none. Download it.")
        values = artifacts.read_json(path, made_by="dvc repro -f -s download")
        return values if isinstance(values, dict) else {}

    def _undescribed(self, episode_id: int, expected: str, found: Any) -> DataError:
        path = self._about(episode_id, "meta/episodes")
        return DataError(f"{path}: expected {expected}, found {str(found)[:40]}. Download the file again.")

    def _about(self, episode_id: int, folder: str) -> Path:
        """The file about one episode in a folder of such files."""
        chunk = episode_id // self._info.chunk_size
        return self._folder.root / f"{folder}/task-{chunk:04d}/episode_{episode_id:08d}.json"

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
