"""A small dataset as BEHAVIOR-1K's 2025-challenge-demos are laid out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.formats.files import encode, write_lines, write_table, write_video
from tests.formats.miniature_lerobot import SIZE, Episode, episodes, stats_line, table, write_info
from vla.columns import Columns

STATE = (
    "observation.state[253:256]",
    "observation.state[236:240]",
    "observation.state[158:165]",
    "observation.state[197:204]",
    "sum(observation.state[193:195])",
    "sum(observation.state[232:234])",
)
COLUMNS = Columns(
    state=STATE,
    actions="action",
    views={"front": "observation.images.rgb.head", "wrist": "observation.images.rgb.left_wrist"},
    depth={"front": "observation.images.depth.head"},
)
TASKS = {"opening_drawers": "open the drawer", "closing_faucets": "close the faucet"}
DEPTH = np.linspace(0, 10, 32 * 48, dtype=np.float32).reshape(32, 48)
"""What every frame of every depth video shows, in metres."""


def challenge_state(raw: np.ndarray) -> np.ndarray:
    """The 23 dimensions of the challenge, out of 256."""
    parts = [raw[:, 253:256], raw[:, 236:240], raw[:, 158:165], raw[:, 197:204]]
    grippers = [raw[:, start : start + 2].sum(axis=1, keepdims=True) for start in (193, 232)]
    return np.concatenate([*parts, *grippers], axis=1)


def write_behavior(root: Path) -> list[Episode]:
    """Three episodes: 10 and 30 of the first task, 10020 of the second."""
    raw = episodes((9, 5, 6), numbers=(10, 30, 10020), state=256, actions=23)
    raw[1] = replace(raw[1], instruction="open the drawer")
    raw[2] = replace(raw[2], instruction="close the faucet")
    write_meta(root, raw)
    for each in raw:
        folder, name = f"task-{each.number // 10000:04d}", f"episode_{each.number:08d}"
        rows = table(each, 0, images=False).drop_columns(["frame_index"])
        rows = rows.set_column(rows.column_names.index("timestamp"), "timestamp", pa.array(np.arange(len(each)) / 30))
        info = pa.array([[0.0] * (1 + step) for step in range(len(each))], pa.list_(pa.float32()))
        write_table(root / f"data/{folder}/{name}.parquet", rows.append_column("observation.task_info", info))
        for view, column in COLUMNS.views.items():
            write_video(root / f"videos/{folder}/{column}/{name}.mp4", each.images[view], fps=30)
        depth = root / f"videos/{folder}/observation.images.depth.head/{name}.mp4"
        write_depth(depth, np.stack([DEPTH] * len(each)))
    return [replace(each, state=challenge_state(each.state)) for each in raw]


def write_depth(path: Path, depth: np.ndarray) -> None:
    """As OmniGibson's `quantize_depth` and `create_video_writer` did in 2025: 14-bit codes in lossless 10-bit video."""
    low, high = np.log(3.5), np.log(13.5)
    codes = np.clip(((np.log(depth + 3.5) - low) / (high - low) * 16383).round(), 0, 16383).astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"x265-params": "lossless=1:log-level=none"}
    encode(path, codes, "libx265", pixels="yuv420p10le", given="gray16le", fps=30, options=options)


def write_meta(root: Path, made: Sequence[Episode]) -> None:
    camera = {"dtype": "video", "shape": [*SIZE, 3], "names": ["height", "width", "rgb"]}
    depth = {**camera, "shape": [*DEPTH.shape, 3], "info": {"video.pix_fmt": "yuv420p16le", "video.is_depth_map": True}}
    kinds = {"rgb": camera, "depth": depth, "seg_instance_id": camera}
    cameras = {
        f"observation.images.{kind}.{place}": each for kind, each in kinds.items() for place in ("head", "left_wrist")
    }
    write_info(
        root,
        "v2.1",
        fps=30,
        robot_type="R1Pro",
        chunks_size=10000,
        total_episodes=3,
        total_frames=20,
        data_path="data/task-{episode_chunk:04d}/episode_{episode_index:08d}.parquet",
        video_path="videos/task-{episode_chunk:04d}/{video_key}/episode_{episode_index:08d}.mp4",
        features={
            **cameras,
            "action": {"dtype": "float32", "shape": [23], "names": None},
            "timestamp": {"dtype": "float64", "shape": [1], "names": None},
            "episode_index": {"dtype": "int64", "shape": [1], "names": None},
            "index": {"dtype": "int64", "shape": [1], "names": None},
            "observation.state": {"dtype": "float32", "shape": [256], "names": None},
            "observation.task_info": {"dtype": "float32", "shape": [None], "names": None},
        },
    )
    tasks = [{"task_index": i, "task_name": name, "task": text} for i, (name, text) in enumerate(TASKS.items())]
    write_lines(root / "meta/tasks.jsonl", tasks)
    lines = [{"episode_index": each.number, "tasks": [each.instruction], "length": len(each)} for each in made]
    write_lines(root / "meta/episodes.jsonl", lines)
    write_lines(root / "meta/episodes_stats.jsonl", [stats_line(each) for each in made])
