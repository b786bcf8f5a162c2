"""Folders as openpi and LeRobot leave them, with the tiny golden weights of pi0 and pi0.5."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bundles import INSTRUCTIONS, statistics
from golden_pi import CAMERAS, HORIZON, golden
from safetensors.torch import load_file, save_file

from vla.models.checkpoints.settings import Stated
from vla.normalization import NormStats
from vla.tokenization import Tokenize

HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
EXPERT_HEAD = "paligemma_with_expert.gemma_expert.lm_head.weight"
EMBEDDING = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
STATE, ACTION = "observation.state", "action"


def stated(**changes: Any) -> Stated:
    """What a person has to say of the folders below."""
    return Stated(**{"data_name": "lab", "fps": 10.0, "max_tokens": 40, "vision_heads": 4, **changes})


def golden_weights(kind: str) -> dict[str, torch.Tensor]:
    """The weights by openpi's names, all of them."""
    tensors = golden(kind)
    return {name.removeprefix("weights/"): value for name, value in tensors.items() if name.startswith("weights/")}


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Write the folder's weights again as `change` leaves them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def openpi_folder(folder: Path, kind: str) -> Path:
    """As openpi's converter writes it: one name for the tied tensor, and a `config.json`."""
    weights = golden_weights(kind)
    del weights[EMBEDDING]
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    config = {"action_dim": 8, "action_horizon": HORIZON, "paligemma_variant": "dummy", "precision": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    NormStats(statistics(3), statistics(2)).write(folder / "assets/lab/robot/norm_stats.json")
    write_tokenizer(folder, kind)
    return folder


def lerobot_folder(folder: Path, kind: str, *, mode: str = "QUANTILES", **changes: Any) -> Path:
    """As LeRobot 0.6.1 writes it: names below `model.`, both names of the tied tensor, two processors."""
    folder.mkdir(parents=True)
    save_file({f"model.{name}": value for name, value in golden_weights(kind).items()}, folder / "model.safetensors")
    images = {f"observation.images.{name}": {"type": "VISUAL", "shape": [3, 56, 56]} for name in CAMERAS}
    config = {
        "type": kind,
        "chunk_size": HORIZON,
        "n_action_steps": HORIZON,
        "num_inference_steps": 4,
        "tokenizer_max_length": 12,
        "max_action_dim": 8,
        "max_state_dim": 8,
        "input_features": {**images, STATE: {"type": "STATE", "shape": [3]}},
        "output_features": {ACTION: {"type": "ACTION", "shape": [2]}},
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode},
        "use_relative_actions": False,
        "action_feature_names": ["dx", "gripper"],
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    stats = {STATE: statistics(3), ACTION: statistics(2)}
    tensors = {
        f"{feature}.{name}": torch.tensor(value if isinstance(value, list) else [value], dtype=torch.float32)
        for feature, values in stats.items()
        for name, value in values.to_plain().items()
    }
    for processor, step, index in (("pre", "normalizer_processor", 2), ("post", "unnormalizer_processor", 0)):
        file = f"policy_{processor}processor_step_{index}_{step}.safetensors"
        entry = {
            "registry_name": step,
            "config": {"eps": 1e-8, "features": {}, "norm_map": config["normalization_mapping"]},
            "state_file": file,
        }
        save_file(tensors, folder / file)
        steps = [{"registry_name": "to_batch_processor", "config": {}}] * index + [entry]
        (folder / f"policy_{processor}processor.json").write_text(json.dumps({"name": processor, "steps": steps}))
    write_tokenizer(folder, kind)
    return folder


def write_tokenizer(folder: Path, kind: str) -> None:
    """The words of the instructions and of the prompts, fewer than the weights have rows for."""
    (folder / "tokenizer.json").write_text(Tokenize.train(INSTRUCTIONS, 40, prompt=kind).to_json())
