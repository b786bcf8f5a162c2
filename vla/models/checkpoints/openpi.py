"""openpi's PyTorch checkpoints: what lies beside the weights.

    model.safetensors   config.json   assets/<asset id>/norm_stats.json

`config.json` is written by openpi's converter from JAX and read by nobody there: a checkpoint of its trainer has none,
and what decides how the policy acts stands in openpi's code, as a training configuration of some name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla import artifacts
from vla.errors import CheckpointError
from vla.models.bundle import Bundle
from vla.models.checkpoints.expressed import expressed
from vla.models.checkpoints.settings import IMAGES, Settings, Stated, horizon, with_names
from vla.models.checkpoints.sizes import Kind
from vla.normalization import FILE_NAME, Method, NormStats

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""What openpi calls the three views of its models; one that a robot lacks is black and masked, as if it were not."""
METHOD: Mapping[Kind, Method] = {"pi0": "mean_std", "pi05": "quantile"}
MAX_TOKENS: Mapping[Kind, int] = {"pi0": 48, "pi05": 200}
NUM_STEPS = 10
CONFIG = "config.json"


def read(root: Path, kind: Kind, stated: Stated) -> Settings:
    """What the folder and a person say of it."""
    config = artifacts.read_foreign_json(root / CONFIG) if (root / CONFIG).is_file() else {}
    stats = NormStats.read(stated.norm_stats or _norm_stats(root))
    first_end = stated.delta_actions
    return Settings(
        action_horizon=horizon(stated, config.get("action_horizon"), where=str(root)),
        num_steps=NUM_STEPS,
        max_tokens=stated.max_tokens or MAX_TOKENS[kind],
        views=stated.views or {name: f"{IMAGES}{name}" for name in CAMERAS},
        norm_stats=with_names(stats, state=stated.state_names, actions=stated.action_names),
        normalization={"state": METHOD[kind], "actions": METHOD[kind], "formula": "openpi"},
        delta_actions=[{"actions": first_end, "state": first_end}] if first_end else [],
        notes=() if first_end else ("actions are taken as absolute: openpi's files do not say (--delta-actions)",),
    )


def write(folder: Path, bundle: Bundle) -> list[str]:
    """Write what belongs beside the weights; returns what a person should know."""
    config, kind = bundle.config, bundle.policy_config.name
    method = METHOD[kind]  # type: ignore[index]  # pi0 or pi05
    used, processor = config.transforms.normalization, bundle.processor
    stats = NormStats(
        expressed(bundle.norm_stats.state, processor.state, method, "openpi"),
        expressed(bundle.norm_stats.actions, processor.actions, method, "openpi"),
        bundle.norm_stats.provenance,
    )
    stats.write(folder / "assets" / config.data_name / FILE_NAME)
    artifacts.write_json(folder / CONFIG, _config(bundle))
    said = f"{bundle.spec.action_horizon} actions, {config.transforms.max_tokens} tokens, asset id {config.data_name}"
    notes = [f"openpi needs a training configuration that says: {said}"]
    if len(processor.delta):
        notes.append("actions are relative to the state: add openpi's DeltaActions to that configuration")
    if used.formula != "openpi":
        notes.append("statistics are changed so that openpi's formula makes the bundle's map of them")
    return notes


def _config(bundle: Bundle) -> dict[str, Any]:
    section = bundle.policy_config.plain()
    return {
        "action_dim": section["max_action_dim"],
        "action_horizon": section["action_horizon"],
        "paligemma_variant": variant(section["language"]),
        "action_expert_variant": variant(section["expert"]),
        "precision": "float32",
    }


def variant(sizes: Mapping[str, int]) -> str:
    """The name that openpi and LeRobot have for these sizes of a Gemma."""
    return {2048: "gemma_2b", 1024: "gemma_300m"}.get(sizes["width"], "custom")


def _norm_stats(root: Path) -> Path:
    files = sorted(root.glob(f"assets/**/{FILE_NAME}"))
    if len(files) != 1:
        found = ", ".join(file.parent.relative_to(root).as_posix() for file in files) or "none"
        raise CheckpointError(
            f"{root}: expected statistics of one robot below assets/, found {found}. Name a {FILE_NAME} with "
            f"--norm-stats: the one of the robot that is to act, or that of the data that will be trained on."
        )
    return files[0]
