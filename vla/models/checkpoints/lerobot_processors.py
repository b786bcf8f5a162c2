"""The steps before and behind a LeRobot policy: files that name them in order, and the statistics of two of them.

A step that has tensors names their file as `state_file`; those of the normaliser are called `<feature>.<statistic>`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vla import artifacts
from vla.errors import CheckpointError
from vla.models import bundle
from vla.models.checkpoints import tensors
from vla.models.checkpoints.settings import ACTION, STATE
from vla.normalization import ALWAYS, EPSILON, OPTIONAL, NormStats, Statistics
from vla.paths import below

BEFORE, BEHIND = "policy_preprocessor", "policy_postprocessor"
NORMALIZER, UNNORMALIZER = "normalizer_processor", "unnormalizer_processor"
TOKENIZER = "google/paligemma-3b-pt-224"
"""What LeRobot's processors of both policies name."""
KNOWN = frozenset((*ALWAYS, *OPTIONAL, "count"))


@dataclass(frozen=True, slots=True)
class Normalizer:
    """How a policy's state and actions are normalised."""

    modes: Mapping[str, str]
    """STATE, ACTION and VISUAL -> what LeRobot calls the method."""
    stats: NormStats | None
    """None where the checkpoint has none, as one that is only to be trained further."""


def read(root: Path, config: Mapping[str, Any]) -> Normalizer:
    """Raises CheckpointError for statistics that only one of the two quantities has, or that differ on the way back."""
    step = _step(root, BEFORE, NORMALIZER)
    if step is None:
        return Normalizer(config.get("normalization_mapping", {}), None)
    used = step["config"]
    if used.get("eps", EPSILON["lerobot"]) != EPSILON["lerobot"]:
        raise CheckpointError(
            f"{root / BEFORE}.json: expected eps {EPSILON['lerobot']} in {NORMALIZER}, found {used['eps']}. Only this "
            f"one can be imported."
        )
    found = _statistics(root, BEFORE, step)
    back = _statistics(root, BEHIND, _step(root, BEHIND, UNNORMALIZER))
    if found.get(ACTION) != back.get(ACTION):
        raise CheckpointError(
            f"{root}: expected equal statistics of {ACTION} in both processors, found others in {BEHIND}. Get the "
            f"files of one checkpoint."
        )
    if STATE not in found or ACTION not in found:
        return Normalizer(used["norm_map"], None)
    parsed = {name: Statistics.from_plain(found[name], where=f"{root / BEFORE}.json: {name}") for name in found}
    return Normalizer(used["norm_map"], NormStats(parsed[STATE], parsed[ACTION]))


def write(folder: Path, config: Mapping[str, Any], stats: Mapping[str, Statistics]) -> None:
    """Write both files and their tensors for a policy of `config`."""
    features = {**config["input_features"], **config["output_features"]}
    normalize = _normalize(NORMALIZER, features, config)
    back = _normalize(UNNORMALIZER, config["output_features"], config)
    relative = {key: config[key] for key in ("relative_exclude_joints", "action_feature_names") if key in config}
    forth, absolute = [], []
    if relative:
        forth = [
            _entry(
                "relative_actions_processor",
                enabled=True,
                exclude_joints=relative["relative_exclude_joints"],
                action_names=relative["action_feature_names"],
            )
        ]
        absolute = [_entry("absolute_actions_processor", enabled=True)]
    begin = [_entry("rename_observations_processor", rename_map={}), _entry("to_batch_processor")]
    tokenize = _entry(
        "tokenizer_processor",
        max_length=config["tokenizer_max_length"],
        task_key="task",
        padding_side="right",
        padding="max_length",
        truncation=True,
        tokenizer_name=TOKENIZER,
    )
    device = _entry("device_processor", device="cpu", float_dtype=None)
    if config["type"] == "pi05":
        # The text says the normalised state.
        steps = [*begin, *forth, normalize, _entry("pi05_prepare_state_tokenizer_processor_step"), tokenize, device]
    else:
        steps = [*begin, _entry("pi0_new_line_processor"), tokenize, device, *forth, normalize]
    named = {
        f"{feature}.{name}": value for feature, values in stats.items() for name, value in _tensors(values).items()
    }
    _write(folder, BEFORE, steps, normalize, named)
    _write(folder, BEHIND, [back, *absolute, device], back, named)


def _entry(name: str, **settings: Any) -> dict[str, Any]:
    return {"registry_name": name, "config": settings}


def _normalize(name: str, features: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return _entry(name, eps=EPSILON["lerobot"], features=dict(features), norm_map=config["normalization_mapping"])


def _write(
    folder: Path, name: str, steps: list[dict[str, Any]], step: dict[str, Any], named: Mapping[str, Tensor]
) -> None:
    step["state_file"] = f"{name}_step_{steps.index(step)}_{step['registry_name']}.safetensors"
    artifacts.write_json(folder / f"{name}.json", {"name": name, "steps": steps})
    bundle.write_tensors(folder / step["state_file"], named)


def _tensors(stats: Statistics) -> dict[str, Tensor]:
    plain = stats.to_plain()
    return {name: torch.tensor(np.atleast_1d(value), dtype=torch.float32) for name, value in plain.items()}


def _step(root: Path, processor: str, name: str) -> dict[str, Any] | None:
    """The step of a processor, if there is one."""
    path = root / f"{processor}.json"
    if not path.is_file():
        return None
    steps = artifacts.read_foreign_json(path)["steps"]
    return next((step for step in steps if step.get("registry_name") == name), None)


def _statistics(root: Path, processor: str, step: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The statistics of a step: feature -> name -> numbers."""
    if step is None or "state_file" not in step:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.read(below(root, step["state_file"], where=f"{processor}.json")).items():
        feature, _, statistic = name.rpartition(".")
        if feature in (STATE, ACTION) and statistic in KNOWN:
            values = tensor.double().flatten().tolist()
            found.setdefault(feature, {})[statistic] = int(values[0]) if statistic == "count" else values
    return found
