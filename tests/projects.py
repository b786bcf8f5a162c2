"""A complete little project on disk: a generated dataset with random content, its artifacts and its parameters."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from vla.data import norm_stats, validate
from vla.data.manifest import Manifest
from vla.data.sources import MIXTURE, reading_code
from vla.sim.demonstrations import Demonstration, DemonstrationsConfig
from vla.sim.write import write_dataset
from vla.training.job import Job, JobConfig

TASKS = {"drawer-open-v3": "open the drawer", "faucet-open-v3": "open the faucet"}
LENGTHS = (9, 12, 7, 10, 8, 11)
REPOSITORY = Path(__file__).parents[1]
TOY: dict[str, Any] = {
    "data.name": "toy",
    "transforms.image_size": [16, 16],
    "transforms.augment.shift_px": 2,
    "policy.action_horizon": 4,
    "policy.width": 16,
    "policy.heads": 2,
    "policy.encoder_layers": 1,
    "policy.expert_layers": 1,
    "tracking.experiment": "toys",
    "execution.launcher": "local",
    "execution.workers": 1,
    "execution.micro_batch": 8,
    "execution.device": "cpu",
    "execution.log_every": 2,
    "execution.checkpoint_every": 3,
    "execution.validate_every": 5,
    "execution.max_failures": 0,
    "train.steps": 12,
    "train.batch_size": 8,
    "train.validation_samples": 8,
    "train.validation_times": 2,
    "train.validation_actions": 4,
    "train.optimizer.warmup_steps": 2,
    "train.ema": 0.9,
    "validate.holdout": 0.2,
}
"""What makes the repository's own parameters small enough for a test."""


def params(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The repository's parameters at toy size, with dotted names replaced."""
    values: dict[str, Any] = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for dotted, value in {**TOY, **changes}.items():
        *path, last = dotted.split(".")
        place = values
        for key in path:
            place = place[key]
        place[last] = value
    return values


def write_toy_dataset(root: Path, *, lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> None:
    """Episodes of random frames, states and actions, in the format that the simulator source writes."""
    rng = np.random.default_rng(seed)
    cfg = DemonstrationsConfig(
        tasks=tuple(TASKS), episodes_per_task=len(lengths), image_size=(16, 16), max_steps=50, noise=0.0, extras=()
    )
    write_dataset(root, [_demonstration(rng, row, length) for row, length in enumerate(lengths)], cfg)
    files = [path for path in root.rglob("*") if path.is_file()]
    manifest = Manifest.describe(files, root=root, format_name="lerobot_v30", source={"kind": "toy"}, in_place=False)
    manifest.write(root)


def _demonstration(rng: np.random.Generator, row: int, length: int) -> Demonstration:
    task = list(TASKS)[row % len(TASKS)]
    frames = {view: rng.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8) for view in ("front", "wrist")}
    counts = {
        view: np.stack([np.bincount(values[..., c].ravel(), minlength=256) for c in range(3)])
        for view, values in frames.items()
    }
    return Demonstration(
        task=task,
        instruction=TASKS[task],
        state_TS=rng.normal(size=(length, 4)).astype(np.float32),
        actions_TA=rng.uniform(-1, 1, size=(length, 4)).astype(np.float32),
        images={view: [_png(frame) for frame in values] for view, values in frames.items()},
        image_counts=counts,
        extras={},
    )


def _png(frame: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "png")
    return out.getvalue()


def a_project(root: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Make `root` a project whose stages before `train` have run; returns it. Datasets of `data.mixture` are small."""
    data = root / "data"
    write_toy_dataset(data / "dataset")
    for seed, name in enumerate((changes or {}).get("data.mixture", {}), start=1):
        folder = data / "dataset" / MIXTURE / name
        write_toy_dataset(folder, lengths=(5, 6), seed=seed)
        replace(Manifest.read(folder), code=reading_code("lerobot_v30")).write(folder)
    write_params(root, changes or {})
    paths = {"dataset": data / "dataset", "episodes": data / "episodes.parquet"}
    cfg = validate.Config.load(root / "params.yaml")
    validate.run(cfg, **paths, validation=data / "validation.json", report=root / "validation.html")
    norm_stats.run(norm_stats.Config.load(root / "params.yaml"), **paths, norm_stats=data / "norm_stats.json")
    (data / "features").mkdir()
    (data / "features" / "meta.json").write_text('{"enabled": false}\n')
    return root


def write_params(root: Path, changes: Mapping[str, Any]) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump(params(changes)))


def train_paths(root: Path, out: str = "out") -> dict[str, Path]:
    """The keyword arguments of stage train's `run` in the project."""
    data, made = root / "data", root / out
    return {
        "dataset": data / "dataset",
        "episodes": data / "episodes.parquet",
        "norm_stats": data / "norm_stats.json",
        "features": data / "features",
        "policy": made / "policy",
        "training": made / "training",
        "metrics": made / "training.json",
        "loss": made / "loss.csv",
    }


def a_job(root: Path, *, state: Path, frames: Path) -> Job:
    """A training of the project's parameters as they are, in an existing folder for its state."""
    inputs = {name: train_paths(root)[name] for name in ("dataset", "episodes", "norm_stats")}
    cfg = JobConfig.load(root / "params.yaml")
    return Job(cfg=cfg, **inputs, state=state, frames=frames, code="0", passport={})


def train_flags(root: Path, out: str = "out") -> list[str]:
    """The same as flags of `vla train`."""
    return [
        word for name, path in train_paths(root, out).items() for word in (f"--{name.replace('_', '-')}", str(path))
    ]
