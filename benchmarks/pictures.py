"""A dataset with images in Parquet for the loader's benchmark, and a plain reader of it as a reference."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from vla.sim import world
from vla.sim.demonstrations import Demonstration, DemonstrationsConfig
from vla.sim.write import write_dataset

TASK = "drawer-open-v3"
STATE, ACTION, IMAGE = "observation.state", "action", "observation.images.front"


def generate(root: Path, *, episodes: int, steps: int, side: int) -> None:
    """LeRobot v3.0, one row group per episode; pictures of soft shapes and sensor noise, about half their raw size."""
    cfg = DemonstrationsConfig(
        tasks=(TASK,), episodes_per_task=episodes, image_size=(side, side), max_steps=150, noise=0.0, extras=()
    )
    write_dataset(root, (_demonstration(np.random.default_rng(row), steps, side) for row in range(episodes)), cfg)


def _demonstration(rng: np.random.Generator, steps: int, side: int) -> Demonstration:
    pictures = [_png(_picture(rng, side)) for _ in range(steps)]
    return Demonstration(
        task=TASK,
        instruction=world.instruction(TASK),
        state_TS=rng.normal(size=(steps, len(world.STATE_NAMES))).astype(np.float32),
        actions_TA=rng.normal(size=(steps, len(world.ACTION_NAMES))).astype(np.float32),
        images=dict.fromkeys(world.VIEWS, pictures),
        image_counts={view: np.ones((3, 256), dtype=np.int64) for view in world.VIEWS},
        extras={},
    )


def _picture(rng: np.random.Generator, side: int) -> np.ndarray:
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
    return (soft + rng.integers(-4, 5, soft.shape)).clip(0, 255).astype(np.uint8)


def _png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


@dataclass
class PlainReader:
    """Samples one by one: a row group is read once, an image decoded by Pillow, 16 actions sliced out of an array."""

    root: Path
    horizon: int

    def batches(self, episode_N: np.ndarray, step_N: np.ndarray, size: int) -> Iterator[dict[str, np.ndarray]]:
        """The given samples, stacked by `size`."""
        files = [pq.ParquetFile(path) for path in sorted((self.root / "data").rglob("*.parquet"))]
        places = [(file, group) for file in files for group in range(file.num_row_groups)]
        groups: dict[int, tuple[Any, np.ndarray, np.ndarray]] = {}
        batch: list[dict[str, np.ndarray]] = []
        for episode, step in zip(episode_N.tolist(), step_N.tolist(), strict=True):
            if episode not in groups:
                groups[episode] = self._read(*places[episode])
            images, state, actions = groups[episode]
            picture = np.asarray(Image.open(io.BytesIO(images[step].as_py())))
            chunk = actions[np.minimum(np.arange(step, step + self.horizon), len(actions) - 1)]
            batch.append({"image": picture, "state": state[step], "actions": chunk})
            if len(batch) == size:
                yield {name: np.stack([item[name] for item in batch]) for name in batch[0]}
                batch = []

    def _read(self, file: pq.ParquetFile, group: int) -> tuple[Any, np.ndarray, np.ndarray]:
        table = file.read_row_group(group, columns=[IMAGE, STATE, ACTION], use_threads=False)
        state, actions = (
            table[name].combine_chunks().flatten().to_numpy().reshape(len(table), -1) for name in (STATE, ACTION)
        )
        return table[IMAGE].combine_chunks().field("bytes"), state, actions
