"""A project of generated data for the training benchmark, with the parameters of the repository."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from vla.data import norm_stats, validate
from vla.data.manifest import Manifest
from vla.training.job import Job, JobConfig

REPOSITORY = Path(__file__).parents[1]
CHANGES = {
    "execution.launcher": "local",
    "execution.workers": 1,
    "execution.micro_batch": 64,
    "tracking.experiment": "b",
}


def make_project(root: Path, generate: Callable[[Path], None]) -> Path:
    """Run the stages before `train` on the dataset that `generate` writes to a folder."""
    data = root / "data"
    generate(data / "dataset")
    files = [path for path in (data / "dataset").rglob("*") if path.is_file()]
    source = {"kind": "generated"}
    manifest = Manifest.describe(files, root=data / "dataset", format_name="lerobot_v30", source=source, in_place=False)
    manifest.write(data / "dataset")
    write_params(root, {})
    paths = {"dataset": data / "dataset", "episodes": data / "episodes.parquet"}
    cfg = validate.Config.load(root / "params.yaml")
    validate.run(cfg, **paths, validation=data / "validation.json", report=root / "validation.html")
    norm_stats.run(norm_stats.Config.load(root / "params.yaml"), **paths, norm_stats=data / "norm_stats.json")
    (data / "features").mkdir()
    (data / "features" / "meta.json").write_text('{"enabled": false}\n')
    subprocess.run(["git", "init", "-q", root], check=True)
    return root


def write_params(root: Path, changes: Mapping[str, Any]) -> None:
    """The repository's parameters with dotted names replaced."""
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for dotted, value in {**CHANGES, **changes}.items():
        section, *path = dotted.split(".")
        place, key = values, section
        for following in path:
            place, key = place[key], following
        place[key] = value
    (root / "params.yaml").write_text(yaml.safe_dump(values))


def make_job(root: Path, changes: Mapping[str, Any]) -> Job:
    """A job with a state of its own."""
    write_params(root, changes)
    state = root / "states" / str(len(list((root / "states").glob("*"))))
    state.mkdir(parents=True)
    data = root / "data"
    return Job(
        cfg=JobConfig.load(root / "params.yaml"),
        dataset=data / "dataset",
        episodes=data / "episodes.parquet",
        norm_stats=data / "norm_stats.json",
        state=state,
        frames=root / "frames",
        code="0",
        passport={},
    )


def train_command(root: Path, changes: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """`vla train` in the project, and its environment."""
    write_params(root, {"execution.micro_batch": 32, **changes})
    data, out = root / "data", root / "out"
    places = {
        "dataset": data / "dataset",
        "episodes": data / "episodes.parquet",
        "norm-stats": data / "norm_stats.json",
        "features": data / "features",
        "policy": out / "policy",
        "training": out / "training",
        "metrics": out / "training.json",
        "loss": out / "loss.csv",
    }
    flags = [word for name, path in places.items() for word in (f"--{name}", str(path))]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    return [sys.executable, "-m", "vla", "train", *flags], environment
