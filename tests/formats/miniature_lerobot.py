"""Small LeRobot datasets of every version, made of known arrays; and the arrays, for other formats to write."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from tests.formats.files import FPS, change_feature, png, rewrite, write_json, write_lines, write_table, write_video
from vla.columns import Columns
from vla.sim.demonstrations import Demonstration, DemonstrationsConfig
from vla.sim.write import IMAGE, write_dataset

SIZE = (8, 10)
COLUMNS = Columns(
    state="observation.state",
    actions="action",
    views={"front": "observation.images.front", "wrist": "observation.images.wrist"},
)
TASKS = {"drawer-open-v3": "open the drawer", "faucet-close-v3": "close the faucet"}


@dataclass(frozen=True)
class Episode:
    """What was written."""

    instruction: str
    state: np.ndarray
    actions: np.ndarray
    images: dict[str, np.ndarray]
    number: int = 0

    def __len__(self) -> int:
        return len(self.state)


@dataclass(frozen=True)
class Miniature:
    """A dataset that can be written into an empty folder."""

    format: str
    write: Callable[[Path], list[Episode]]
    columns: Columns = COLUMNS
    has_metadata: bool = True
    """Whether files beside the data say where the episodes are."""

    def __call__(self, root: Path) -> list[Episode]:
        return self.write(root)


def config(**changes: object) -> DemonstrationsConfig:
    plain = {"tasks": tuple(TASKS), "episodes_per_task": 2, "image_size": SIZE}
    limits = {"max_steps": 9, "noise": 0, "extras": ()}
    return DemonstrationsConfig.parse({**plain, **limits, **changes}, where="test")


def demonstration(task: str, length: int, *, seed: int, extras: dict[str, np.ndarray] | None = None) -> Demonstration:
    rng = np.random.default_rng(seed)
    images = {view: rng.integers(0, 256, (length, *SIZE, 3), dtype=np.uint8) for view in COLUMNS.views}
    pixels = {view: values.reshape(-1, 3).T for view, values in images.items()}
    return Demonstration(
        task=task,
        instruction=TASKS[task],
        state_TS=rng.standard_normal((length, 4)).astype(np.float32),
        actions_TA=rng.standard_normal((length, 4)).astype(np.float32),
        images={view: [png(image) for image in values] for view, values in images.items()},
        image_counts={view: np.stack([np.bincount(c, minlength=256) for c in p]) for view, p in pixels.items()},
        extras=extras or {},
    )


def write_lerobot_v30(root: Path) -> list[Episode]:
    """Three episodes of 3, 5 and 2 steps."""
    made = [
        demonstration(task, length, seed=length)
        for task, length in zip([*TASKS, "drawer-open-v3"], (3, 5, 2), strict=True)
    ]
    write_dataset(root, made, config())
    return [
        Episode(
            instruction=each.instruction,
            state=each.state_TS,
            actions=each.actions_TA,
            images={
                view: np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in images])
                for view, images in each.images.items()
            },
            number=number,
        )
        for number, each in enumerate(made)
    ]


def episodes(lengths: Sequence[int], *, numbers: Sequence[int] | None = None, **dims: int) -> list[Episode]:
    """Episodes of random numbers and noise, with the tasks in turn."""
    rng, texts = np.random.default_rng(sum(lengths)), list(TASKS.values())
    return [
        Episode(
            instruction=texts[place % len(texts)],
            state=rng.standard_normal((length, dims.get("state", 4))).astype(np.float32),
            actions=rng.standard_normal((length, dims.get("actions", 4))).astype(np.float32),
            images={view: rng.integers(0, 256, (length, *SIZE, 3), dtype=np.uint8) for view in COLUMNS.views},
            number=place if numbers is None else numbers[place],
        )
        for place, length in enumerate(lengths)
    ]


def write_info(root: Path, version: str, **changes: Any) -> None:
    """`info.json`; of its features those that differ from `image_features` can be given."""
    v2 = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    v3 = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    values = {"codebase_version": version, "fps": FPS, "robot_type": "toy", "chunks_size": 1000}
    paths = v3 if version.startswith("v3") else v2
    write_json(root / "meta/info.json", {**values, **paths, "features": features("image"), **changes})


def features(kind: str) -> dict[str, dict[str, Any]]:
    cameras = {name: {"dtype": kind, "shape": [*SIZE, 3], "names": None} for name in COLUMNS.views.values()}
    vectors = {name: {"dtype": "float32", "shape": [4], "names": None} for name in ("observation.state", "action")}
    numbers = ("frame_index", "episode_index", "index", "task_index")
    own = {name: {"dtype": "int64", "shape": [1], "names": None} for name in numbers}
    return {**cameras, **vectors, "timestamp": {"dtype": "float32", "shape": [1], "names": None}, **own}


def table(episode: Episode, first: int, *, images: bool) -> pa.Table:
    """The rows of an episode; `first` is the number of its first row in the dataset."""
    steps = np.arange(len(episode))
    task = list(TASKS.values()).index(episode.instruction)
    columns: dict[str, Any] = {}
    for view, column in COLUMNS.views.items() if images else ():
        columns[column] = pa.array([{"bytes": png(image), "path": None} for image in episode.images[view]], IMAGE)
    columns["observation.state"] = pa.FixedSizeListArray.from_arrays(episode.state.ravel(), episode.state.shape[1])
    columns["action"] = pa.FixedSizeListArray.from_arrays(episode.actions.ravel(), episode.actions.shape[1])
    columns["timestamp"] = (steps / FPS).astype(np.float32)
    columns |= {"frame_index": steps, "episode_index": np.full(len(steps), episode.number)}
    return pa.table({**columns, "index": first + steps, "task_index": np.full(len(steps), task)})


def write_lerobot_v2(root: Path, version: str, kind: str) -> list[Episode]:
    """Three episodes of 9, 5 and 6 steps, with images in Parquet or in video."""
    made = episodes((9, 5, 6))
    write_info(root, version, features=features(kind), total_episodes=3, total_frames=20)
    write_lines(root / "meta/tasks.jsonl", [{"task_index": i, "task": text} for i, text in enumerate(TASKS.values())])
    write_lines(
        root / "meta/episodes.jsonl",
        [{"episode_index": each.number, "tasks": [each.instruction], "length": len(each)} for each in made],
    )
    if version == "v2.1":
        write_lines(root / "meta/episodes_stats.jsonl", [stats_line(each) for each in made])
    for each in made:
        name = f"episode_{each.number:06d}"
        write_table(root / f"data/chunk-000/{name}.parquet", table(each, 0, images=kind == "image"))
        for view, column in COLUMNS.views.items() if kind == "video" else ():
            write_video(root / f"videos/chunk-000/{column}/{name}.mp4", each.images[view])
    return made


def with_column(root: Path, column: str, values: Callable[[int], pa.Array], dtype: str = "int64") -> None:
    """Add a column to the data file of every episode of `write_lerobot_v2`, made from the episode's number."""
    for number, length in enumerate((9, 5, 6)):
        name = f"data/chunk-000/episode_{number:06d}.parquet"
        rewrite(root / name, lambda table, n=number, c=length: table.append_column(column, pa.array([values(n)] * c)))
    change_feature(root, column, dtype=dtype, shape=[1])


def stats_line(episode: Episode) -> dict[str, Any]:
    recorded = {"observation.state": episode.state, "action": episode.actions}
    stats = {
        name: {"min": values.min(0).tolist(), "max": values.max(0).tolist(), "count": [len(values)]}
        for name, values in recorded.items()
    }
    return {"episode_index": episode.number, "stats": stats}


def write_lerobot_v30_video(root: Path) -> list[Episode]:
    """Four episodes in two data files; the front camera's are in one video file, the wrist camera's in two."""
    made = episodes((9, 5, 6, 7))
    write_info(root, "v3.0", features=features("video"), total_episodes=4, total_frames=27)
    texts = list(TASKS.values())
    write_table(root / "meta/tasks.parquet", pa.table({"task_index": range(2), "__index_level_0__": texts}))
    files = {"data": (0, 0, 0, 1), "front": (0, 0, 0, 0), "wrist": (0, 0, 1, 1)}
    firsts = np.cumsum([0, *(len(each) for each in made)])
    rows = [
        {
            "episode_index": each.number,
            "tasks": [each.instruction],
            "length": len(each),
            "data/chunk_index": 0,
            "data/file_index": files["data"][each.number],
            "dataset_from_index": int(firsts[each.number]),
        }
        for each in made
    ]
    for number in set(files["data"]):
        own = [
            table(each, int(firsts[each.number]), images=False) for each in made if files["data"][each.number] == number
        ]
        write_table(root / f"data/chunk-000/file-{number:03d}.parquet", pa.concat_tables(own))
    for view, column in COLUMNS.views.items():
        for number in set(files[view]):
            own = [each for each in made if files[view][each.number] == number]
            frames = np.concatenate([each.images[view] for each in own])
            write_video(root / f"videos/{column}/chunk-000/file-{number:03d}.mp4", frames)
            for each, begin in zip(own, np.cumsum([0, *map(len, own)]), strict=False):
                rows[each.number] |= {
                    f"videos/{column}/chunk_index": 0,
                    f"videos/{column}/file_index": number,
                    f"videos/{column}/from_timestamp": float(begin) / FPS,
                    f"videos/{column}/to_timestamp": float(begin + len(each)) / FPS,
                }
    for number, part in enumerate((rows[:3], rows[3:])):
        write_table(root / f"meta/episodes/chunk-000/file-{number:03d}.parquet", pa.Table.from_pylist(part))
    return made
