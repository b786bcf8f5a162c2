"""LeRobot datasets of version 2: one Parquet file per episode, and one video file per episode and camera.

Files are named by the templates in `info.json`. Some writers fill these in wrongly, so a file that is not where its
template says is looked for by its name; the folder is then listed once.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vla.columns import Columns
from vla.errors import DataError
from vla.folder import Folder
from vla.lerobot import INFO, Info
from vla.lerobot_dataset import Clip, LeRobotDataset, Span
from vla.lerobot_tasks import EpisodeList
from vla.terms import Range
from vla.video_backend import VideoBackend

EPISODES, TASKS, STATS = "meta/episodes.jsonl", "meta/tasks.jsonl", "meta/episodes_stats.jsonl"


@dataclass(frozen=True, slots=True)
class Names:
    """The files of a folder, and which of them have a given name."""

    all: frozenset[str]
    by_name: Mapping[str, list[str]]

    @classmethod
    def of(cls, names: list[str]) -> "Names":
        by_name: dict[str, list[str]] = defaultdict(list)
        for name in names:
            by_name[name.rpartition("/")[2]].append(name)
        return cls(frozenset(names), by_name)


class EpisodeFiles(LeRobotDataset):
    """A dataset of version 2, but for what is particular to a minor version."""

    def __init__(
        self, folder: Folder, columns: Columns, *, version: str, name: str, video_backend: VideoBackend
    ) -> None:
        info = Info.read(folder, version=version)
        super().__init__(folder, columns, info, name=name, video_backend=video_backend)
        self._task_rows = list(read_lines(folder.path(TASKS), ("task_index", "task")))
        self._episodes = read_episodes(folder.path(EPISODES), self._texts)
        self._episodes.check_known(self._tasks, TASKS)

    @property
    def _listed(self) -> EpisodeList:
        return self._episodes

    @property
    def _texts(self) -> dict[str, str]:
        """What an episode's metadata may call a task -> its text."""
        return {}

    @cached_property
    def _tasks(self) -> Mapping[int, str]:
        return {row["task_index"]: str(row["task"]) for row in self._task_rows}

    def metadata_files(self) -> list[Path]:
        """Description, tasks, episodes, and their statistics where there are any."""
        optional = [path for path in (Path(STATS),) if self._folder.has(path)]
        return sorted([Path(INFO), Path(TASKS), Path(EPISODES), *optional])

    def recorded_ranges(self, episode_id: int) -> dict[str, Range]:
        """By `episodes_stats.jsonl`, where there is one."""
        self._listed.row(episode_id)
        return self._ranges(self._stats.get(episode_id, {}), where=f"{self._folder.root / STATS}: episode {episode_id}")

    def _span(self, row: int) -> Span:
        path = self._place(self._info.data_path, row, self._data_files)
        return Span(path, 0, int(self._listed.lengths_E[row]), is_shared=False)

    def _clip(self, row: int, column: str) -> Clip:
        if self._info.video_path is None:
            raise DataError(f"{self._info.path}: expected video_path for the video {column}, found none. Repair it.")
        return Clip(self._place(self._info.video_path, row, self._video_files, column), begin=0.0, is_shared=False)

    def _place(self, template: str, row: int, names: Names, column: str = "") -> Path:
        """The file that a template names, or else the only one of that name (and camera)."""
        episode = int(self._listed.ids_E[row])
        chunk = episode // self._info.chunk_size
        numbers = {"episode_chunk": chunk, "chunk_index": chunk, "episode_index": episode, "file_index": episode}
        path = self._info.file(template, **numbers, video_key=column)
        if path.as_posix() in names.all:
            return path
        found = [name for name in names.by_name.get(path.name, ()) if not column or column in name.split("/")]
        if len(found) > 1:
            raise DataError(
                f"{self._info.path}: episode {episode}: expected one file {path.name}, found {', '.join(found)}, and "
                f"none at {path}. Remove all but the right one."
            )
        return Path(found[0]) if found else path

    @cached_property
    def _data_files(self) -> Names:
        return Names.of(self._folder.names("data", ".parquet"))

    @cached_property
    def _video_files(self) -> Names:
        return Names.of(self._folder.names("videos", Path(self._info.video_path or "").suffix))

    @cached_property
    def _stats(self) -> dict[int, dict[str, Range]]:
        """Episode -> column -> range, of the columns of state and actions."""
        if not self._folder.has(Path(STATS)):
            return {}
        path = self._folder.path(STATS)
        columns = {*self._state.columns, *self._actions.columns}
        stats = {}
        for line in read_lines(path, ("episode_index", "stats")):
            episode, recorded = line["episode_index"], line["stats"]
            try:
                stats[int(episode)] = {name: _range(recorded[name]) for name in columns.intersection(recorded)}
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path}: episode {episode}: expected lists of numbers min and max of each column, found "
                    f"{error!r}. Repair the dataset."
                ) from None
        return stats


def suggest(root: Path, *, version: str) -> Columns:
    """A feature map by the names in `info.json`; cameras that have no videos are left out."""
    folder = Folder(root)
    info = Info.read(folder, version=version)
    chunks = list((root / "videos").glob("*"))
    here = [
        name for name in info.cameras if not info.is_video(name) or any((chunk / name).is_dir() for chunk in chunks)
    ]
    lines = read_lines(folder.path(EPISODES), ("tasks",))
    several_tasks = any(isinstance(line["tasks"], list) and len(line["tasks"]) > 1 for line in lines)
    return info.suggest_columns(here or info.cameras, several_tasks=several_tasks)


def read_lines(path: Path, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The mappings of a file of JSON lines; raises DataError when a line is none, or lacks one of `keys`."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _mapping(line, keys, where=f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text, found {error}. Download the dataset again.") from None


def _mapping(line: str, keys: tuple[str, ...], *, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: expected JSON, {error}. Download the dataset again.") from None
    if not isinstance(values, dict) or not values.keys() >= set(keys):
        found = ", ".join(values) if isinstance(values, dict) else line.strip()[:40]
        raise DataError(f"{where}: expected {', '.join(keys)}, found {found}. Repair the dataset.")
    return values


def read_episodes(path: Path, texts: Mapping[str, str]) -> EpisodeList:
    """The list of episodes in a file of JSON lines; tasks named by a key of `texts` get its text."""
    ids, lengths, tasks = [], [], []
    for line in read_lines(path, ("episode_index", "length")):
        named = line.get("tasks") or []
        ids.append(line["episode_index"])
        lengths.append(line["length"])
        tasks.append([named] if isinstance(named, str) else named)
    try:
        numbers = np.array([ids, lengths] if ids else np.zeros((2, 0), dtype=np.int64)).astype(np.int64, casting="safe")
        lists = pa.array([[texts.get(task, task) for task in named] for named in tasks], pa.list_(pa.string()))
    except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        raise DataError(f"{path}: expected whole numbers and texts, {error}. Repair the dataset.") from None
    return EpisodeList.of(str(path), numbers[0], numbers[1], [lists])


def _range(stats: Any) -> Range:
    low, high = (np.array(stats[side], dtype=np.float64).ravel() for side in ("min", "max"))
    return low, high
