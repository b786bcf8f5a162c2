"""A bundle to a checkpoint of another project, with all that its strict loading asks for.

openpi loads with safetensors' `load_model`, which wants one of the two names of a tied tensor: `lm_head`, as in its own
files. LeRobot wants both. Each wants the output layer of its action expert, on which no action depends: zeros.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from vla import artifacts
from vla.errors import CheckpointError
from vla.models import bundle
from vla.models.bundle import Bundle
from vla.models.checkpoints import lerobot, names, openpi, tensors
from vla.models.checkpoints.settings import Layout
from vla.models.checkpoints.sizes import HEADS, Kind

WRITE = {"openpi": openpi.write, "lerobot": lerobot.write}


@dataclass(frozen=True, slots=True)
class Report:
    """What an export wrote."""

    layout: Layout
    kind: str
    tensors: int
    notes: Sequence[str]
    out: Path

    def __str__(self) -> str:
        lines = [
            ("layout", f"{self.layout}, {self.kind}"),
            ("weights", f"{self.tensors} tensors of float32"),
            ("added", f"{names.LM_HEAD}: the embedding"),
            ("added", f"{names.EXPERT_HEAD}: zeros, since no action depends on it"),
            *(("note", note) for note in self.notes),
            ("checkpoint", str(self.out)),
        ]
        return "\n".join(f"{name:<18}{value}" for name, value in lines)


def export(path: Path, layout: Layout, out: Path) -> Report:
    """Write the bundle at `path` as a checkpoint of another project."""
    loaded = bundle.load(path)
    _check(loaded, layout)
    written = named(loaded.policy.state_dict(), layout)
    with artifacts.new_directory(out) as partial:
        bundle.write_tensors(partial / tensors.NAMES[0], written)
        notes = WRITE[layout](partial, loaded)
        if loaded.policy_config.sampler != "euler":
            notes.append(f"sampled by {loaded.policy_config.sampler} here, and by Euler steps there")
        artifacts.write_text(partial / bundle.TOKENIZER, loaded.processor.tokenize.to_json())
    return Report(layout, loaded.policy_config.name, len(written), notes, out)


def named(weights: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Our weights in float32 and those that the layout has besides, by its names."""
    named = names.untranslate({name: weight.float() for name, weight in weights.items()})
    embedding = named[names.EMBEDDING]
    width = weights["action_in.weight"].shape[0]
    named |= {names.LM_HEAD: embedding, names.EXPERT_HEAD: torch.zeros(len(embedding), width)}
    if layout == "openpi":
        del named[names.EMBEDDING]
        return named
    return {names.LEROBOT + name: tensor for name, tensor in named.items()}


def _check(loaded: Bundle, layout: Layout) -> None:
    section = loaded.policy_config.plain()
    if section["name"] not in get_args(Kind):
        raise CheckpointError(
            f"{loaded.path}: expected a bundle of {' or '.join(get_args(Kind))}, found {section['name']}. Only these "
            f"are policies of {layout} too."
        )
    heads = section["language"]["heads"]
    if heads != HEADS:
        raise CheckpointError(
            f"{loaded.path}: expected {HEADS} attention heads, which {layout} takes for granted, found {heads}. Train "
            f"with policy.language.heads and policy.expert.heads of {HEADS} to export."
        )
