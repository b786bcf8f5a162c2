"""Passports: what made a bundle, and what is known about it.

A bundle's own passport is written by `train` and says which data, statistics, parameters, code and libraries it came
from. It has no clock and no run id, so equal work gives an equal passport. `join` adds what later stages found out;
the joined passport goes with the registered version and is what the gate compares.
"""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from vla import artifacts
from vla.errors import CheckpointError

SCHEMA = 2
LIBRARIES = (
    "vlaflow",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pyarrow",
    "av",
    "torchcodec",
    "ray",
    "mlflow",
    "dvc",
)
NEEDED = ("schema", "bundle_digest", "data_name", "inputs", "episode_contents", "code", "params", "versions")


def of_training(params: Mapping[str, Any], inputs: Mapping[str, str], *, episodes: Path, code: str) -> dict[str, Any]:
    """The passport of a bundle.

    `params` are the sections that decided the numbers, `inputs` the digest of each input (dataset, episodes,
    norm_stats, features), `episodes` the episode table, `code` the digest of the training code.
    """
    table = pq.read_table(episodes, columns=["content", "split"])
    contents: dict[str, list[str]] = {"train": [], "validation": []}
    for content, split in zip(table["content"].to_pylist(), table["split"].to_pylist(), strict=True):
        if split in contents:
            contents[split].append(content)
    return {
        "schema": SCHEMA,
        "data_name": params["data"]["name"],
        "inputs": dict(inputs),
        "episode_contents": {split: sorted(found) for split, found in contents.items()},
        "code": {"digest": code, **git_state()},
        "params": dict(params),
        "versions": versions(),
    }


def read(bundle: Path) -> dict[str, Any]:
    """The passport in the folder of a bundle; raises CheckpointError when there is none or parts of it are missing."""
    path = bundle / "passport.json"
    if not path.is_file():
        raise CheckpointError(f"{path}: expected the bundle's passport, found none. Run 'dvc repro -f -s train'.")
    passport: dict[str, Any] = artifacts.read_json(path, made_by="dvc repro -f -s train")
    missing = [name for name in NEEDED if name not in passport]
    if missing or passport["schema"] != SCHEMA:
        raise CheckpointError(
            f"{path}: expected a passport of schema {SCHEMA}, found schema {passport.get('schema')}"
            f"{' without ' + ', '.join(missing) if missing else ''}. Run 'dvc repro -f -s train'."
        )
    return passport


def join(
    passport: Mapping[str, Any],
    *,
    validation: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    rollout: Mapping[str, Any],
) -> dict[str, Any]:
    """A bundle's passport with what validation, evaluation and rollout found; they are named by their digests."""
    tasks = {task: found["success"] for task, found in rollout.get("tasks", {}).items()}
    return {
        **passport,
        "validation": {
            "digest": artifacts.digest_of_value(validation),
            **{name: validation[name] for name in ("status", "episodes", "steps")},
            "not_checked": validation.get("not_checked", []),
        },
        "evaluation": {
            "digest": artifacts.digest_of_value(evaluation),
            **{name: evaluation[name] for name in ("episodes", "error_ratio", "mae", "mse")},
        },
        "rollout": {
            "digest": artifacts.digest_of_value(rollout),
            **{name: rollout.get(name) for name in ("status", "protocol", "success", "interval", "episodes")},
            "tasks": tasks,
            "swapped_success": (rollout.get("swapped") or {}).get("success"),
        },
        "dvc": dvc_outputs(),
    }


def git_state() -> dict[str, Any]:
    """The commit of the checkout and whether code under `vla` differs from it; both None without git."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--", "vla")
    return {"commit": commit, "dirty": None if commit is None or changed is None else bool(changed)}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers can depend on, where they are installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def dvc_outputs(lock: Path = Path("dvc.lock")) -> dict[str, str]:
    """Output path -> DVC's hash, by which `dvc checkout` and the remote find the bytes again.

    Empty outside a `dvc repro`: inside one the entries of the stages before this one are up to date, elsewhere nobody
    knows.
    """
    current = os.environ.get("DVC_STAGE")
    if not current or not lock.is_file():
        return {}
    stages = yaml.safe_load(lock.read_text())["stages"]
    before = [stage for name, stage in stages.items() if name != current]
    return {out["path"]: out["md5"] for stage in before for out in stage.get("outs", []) if "md5" in out}


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
