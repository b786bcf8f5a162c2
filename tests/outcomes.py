"""What the stages before `register` leave behind, for tests: a tiny bundle and reports with chosen results."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bundles import a_bundle

from vla import artifacts
from vla.registration import register
from vla.registration.candidate import Files
from vla.tracking import passport

PARAMS = {
    "data": {"name": "toy"},
    "policy": {"name": "tiny_vla", "action_horizon": 4},
    "seed": 0,
    "train": {"optimizer": {"lr": 0.001}},
}
FLAT_PARAMS = {
    "data.name": "toy",
    "policy.name": "tiny_vla",
    "policy.action_horizon": 4,
    "seed": 0,
    "train.optimizer.lr": 0.001,
}
INPUTS = {name: f"{name}-digest" for name in ("dataset", "episodes", "norm_stats", "features")}


PROTOCOL = {
    "environment": "metaworld",
    "tasks": ["close", "open"],
    "episodes": 10,
    "execute_horizon": 4,
    "first_seed": 1000000,
    "settings": {"image_size": [64, 64], "max_steps": 150},
}
CONFIG = register.Config.parse(
    {
        "tracking": {"experiment": "robots", "model": "policy"},
        "register": {"metric": "success", "max_error_ratio": 1.0},
    },
    where="test",
)


def registered(files: Files) -> dict[str, Any]:
    """Run the stage; returns registration.json."""
    path = files.policy.parent / "registration.json"
    register.run(CONFIG, **asdict(files), registration=path)
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def episode_table(path: Path, *, train: Sequence[str], validation: Sequence[str]) -> Path:
    """The columns of an episode table that a passport reads."""
    rows = [*((name, "train") for name in train), *((name, "validation") for name in validation), ("", "quarantined")]
    contents, splits = zip(*rows, strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"content": contents, "split": splits}), path)
    return path


def outcome(
    folder: Path,
    *,
    seed: int = 0,
    train: Sequence[str] = ("a", "b", "c"),
    validation: Sequence[str] = ("d", "e"),
    run_id: str | None = None,
    success: float | None = 0.8,
    error_ratio: float = 0.5,
) -> Files:
    """Write everything; the bundle depends on `seed`. Without success the rollout was skipped."""
    table = episode_table(folder / "episodes.parquet", train=train, validation=validation)
    own = passport.of_training(PARAMS, INPUTS, episodes=table, code="code-digest")
    bundle = a_bundle(folder / "policy", seed=seed, passport=own)
    files = Files(
        policy=folder / "policy",
        training=folder / "training",
        validation=folder / "validation.json",
        evaluation=folder / "evaluation.json",
        report=folder / "evaluation",
        rollout=folder / "rollout.json",
        videos=folder / "videos",
    )
    write_training(files, run_id=run_id)
    counts = {"total": 5, "train": 3, "validation": 2}
    artifacts.write_json(
        files.validation,
        {
            "status": "passed",
            "dataset_digest": INPUTS["dataset"],
            "episodes": {**counts, "quarantined": 0},
            "steps": counts,
            "not_checked": [],
        },
    )
    write_evaluation(files, bundle_digest=bundle.digest, error_ratio=error_ratio)
    write_rollout(files, bundle_digest=bundle.digest, success=success)
    return files


def write_training(files: Files, *, run_id: str | None) -> None:
    rows = (
        '{"metrics": {"loss": 2.0}, "seconds": 1.0, "step": 1}\n{"metrics": {"loss": 1.0}, "seconds": 2.5, "step": 2}\n'
    )
    artifacts.write_text(files.journal, rows)
    artifacts.write_json(files.training / "params.json", FLAT_PARAMS)
    artifacts.write_json(files.training / "run.json", {"run_id": run_id, "tracking_uri": "", "experiment": "robots"})


def write_evaluation(files: Files, *, bundle_digest: str, error_ratio: float) -> None:
    error = {"mse": 0.04, "mae": 0.2}
    artifacts.write_json(
        files.evaluation,
        {
            "bundle_digest": bundle_digest,
            "dataset_digest": INPUTS["dataset"],
            "episodes": 2,
            "steps": 20,
            **error,
            "error_ratio": error_ratio,
            "per_dimension": {"dx": error, "dy": error},
            "per_horizon_step": [{"step": step, **error} for step in range(4)],
            "per_task": {"open the drawer, slowly": {**error, "error_ratio": error_ratio}},
        },
    )
    artifacts.write_text(files.report / "report.html", f"error ratio {error_ratio}")


def write_rollout(files: Files, *, bundle_digest: str, success: float | None, swapped: bool = True) -> None:
    values: dict[str, Any] = {"bundle_digest": bundle_digest, "status": "skipped"}
    if success is not None:
        found = {"success": success, "interval": [0.0, 1.0], "episodes": 20}
        values |= {"status": "done", "protocol": PROTOCOL, **found, "tasks": {"open": found, "close": found}}
        control = {"success": 0.0, "interval": [0.0, 0.2], "episodes": 5}
        none = {"success": None, "interval": None, "episodes": 0}
        values["swapped"] = {**(control if swapped else none), "tasks": {}}
    artifacts.write_json(files.rollout, values)
    artifacts.write_text(files.videos / "open.txt", "frames")
