"""One small dataset per format, made of known arrays: format name -> function that writes it."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vla.columns import Columns
from vla.sim.demonstrations import Demonstration, DemonstrationsConfig
from vla.sim.write import write_dataset

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


Writer = Callable[[Path], list[Episode]]


def config(**changes: object) -> DemonstrationsConfig:
    plain = {"tasks": tuple(TASKS), "episodes_per_task": 2, "image_size": SIZE}
    limits = {"max_steps": 9, "noise": 0, "extras": ()}
    return DemonstrationsConfig.parse({**plain, **limits, **changes}, where="test")


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


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
        )
        for each in made
    ]


MINIATURES: dict[str, Writer] = {"lerobot_v30": write_lerobot_v30}
