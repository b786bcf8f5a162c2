"""LeRobot v2.1 datasets for the benchmarks: generated, or found in a folder.

Generated files are as LeRobot writes them: one Parquet file per episode, and AV1 videos in which every second frame is
a key frame.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DIMS, FPS, EPISODE = 23, 30, 300
VIEWS = {"head": (720, 720), "left_wrist": (480, 480), "right_wrist": (480, 480)}
STATE, ACTION = "observation.state", "action"


@dataclass(frozen=True)
class Recorded:
    """A LeRobot v2.1 dataset and the episodes of it that are here."""

    root: Path
    views: dict[str, str]
    lengths: dict[int, int]

    @classmethod
    def find(cls, root: Path) -> "Recorded":
        info = json.loads((root / "meta/info.json").read_text())
        videos = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
        rows = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
        lengths = {row["episode_index"]: row["length"] for row in rows}
        here = {number: length for number, length in lengths.items() if data_file(root, number).is_file()}
        return cls(root, {name.rpartition(".")[2]: name for name in videos}, here)

    @property
    def frames(self) -> int:
        return sum(self.lengths.values())

    def first(self, count: int) -> "Recorded":
        """The dataset's first episodes."""
        return replace(self, lengths=dict(list(self.lengths.items())[:count]))

    def video(self, view: str, episode: int) -> Path:
        return self.root / f"videos/chunk-000/{self.views[view]}/episode_{episode:06d}.mp4"


def data_file(root: Path, episode: int) -> Path:
    return root / f"data/chunk-{episode // 1000:03d}/episode_{episode:06d}.parquet"


def generate(root: Path, frames: int, filmed: int) -> Recorded:
    """Episodes of `EPISODE` steps; of the first one the first `filmed` steps are filmed."""
    rng = np.random.default_rng(0)
    count = -(-frames // EPISODE)
    vector = {"dtype": "float32", "shape": [DIMS], "names": None}
    number = {"dtype": "int64", "shape": [1], "names": None}
    features: dict[str, Any] = {STATE: vector, ACTION: vector, "timestamp": {**number, "dtype": "float32"}}
    features |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), number)
    for view, size in VIEWS.items():
        features[f"observation.images.{view}"] = {"dtype": "video", "shape": [*size, 3], "names": None}
        film(root / f"videos/chunk-000/observation.images.{view}/episode_000000.mp4", size, filmed, rng)
    info = {"codebase_version": "v2.1", "fps": FPS, "chunks_size": 1000, "features": features}
    info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    (root / "meta").mkdir()
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "tidy up"}\n')
    rows = [{"episode_index": episode, "tasks": ["tidy up"], "length": EPISODE} for episode in range(count)]
    (root / "meta/episodes.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for episode in range(count):
        write_episode(data_file(root, episode), episode, rng)
    return Recorded.find(root)


def write_episode(path: Path, episode: int, rng: np.random.Generator) -> None:
    state = np.cumsum(rng.normal(scale=0.02, size=(EPISODE, DIMS)), axis=0).astype(np.float32)
    action = (state + rng.normal(scale=0.01, size=state.shape)).astype(np.float32)
    steps = np.arange(EPISODE)
    vectors = ((STATE, state), (ACTION, action))
    columns: dict[str, Any] = {name: pa.FixedSizeListArray.from_arrays(of.reshape(-1), DIMS) for name, of in vectors}
    columns |= {"timestamp": (steps / FPS).astype(np.float32), "frame_index": steps, "index": steps + episode * EPISODE}
    columns |= {"episode_index": np.full(EPISODE, episode), "task_index": np.zeros(EPISODE, dtype=np.int64)}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def film(path: Path, size: tuple[int, int], frames: int, rng: np.random.Generator) -> None:
    """A moving, somewhat noisy picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = rng.integers(0, 256, (size[0] // 20, size[1] // 20, 3))
    picture = np.kron(coarse, np.ones((20, 20, 1)))
    os.environ["SVT_LOG"] = "1"  # errors only
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libsvtav1", rate=FPS, options={"g": "2", "crf": "30", "preset": "10"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for frame in range(frames):
            moved = np.roll(picture, 3 * frame, axis=1) + rng.normal(scale=6, size=picture.shape)
            image = av.VideoFrame.from_ndarray(moved.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
