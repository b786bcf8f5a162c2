"""Names of weights: ours, and those of openpi's PyTorch models, which LeRobot has below `model.`.

Both projects carry weights that no action depends on. Their PaliGemma has an output layer `lm_head`, in openpi the same
tensor as the embedding, of which its files have one of two names; their action expert has an output layer as well.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vla.errors import CheckpointError

LEROBOT = "model."
"""What LeRobot's names begin with."""
BACKBONE, EXPERT = "paligemma_with_expert.paligemma.", "paligemma_with_expert.gemma_expert."
LM_HEAD, EMBEDDING = f"{BACKBONE}lm_head.weight", f"{BACKBONE}model.language_model.embed_tokens.weight"
EXPERT_HEAD = f"{EXPERT}lm_head.weight"
VISION = f"{BACKBONE}model.vision_tower."
PREFIXES: Mapping[str, str] = {
    "vision.": f"{VISION}vision_model.",
    "project.": f"{BACKBONE}model.multi_modal_projector.linear.",
    "language.": f"{BACKBONE}model.language_model.",
    "expert.": f"{EXPERT}model.",
    "action_in.": "action_in_proj.",
    "action_out.": "action_out_proj.",
    "state_in.": "state_proj.",
    "action_time_in.": "action_time_mlp_in.",
    "action_time_out.": "action_time_mlp_out.",
    "time_in.": "time_mlp_in.",
    "time_out.": "time_mlp_out.",
}
"""Part of our policies -> what openpi calls it; below these names are equal."""


@dataclass(frozen=True, slots=True)
class Translated:
    """The tensors of a file by our names."""

    weights: dict[str, Tensor]
    notes: tuple[str, ...]
    """What was left out or taken from elsewhere, and why."""
    unknown: tuple[str, ...]
    """Names that none of our parts has."""


def theirs(name: str) -> str:
    """openpi's name of one of our weights."""
    part, rest = re.fullmatch(r"(\w+\.)(.+)", name).groups()  # type: ignore[union-attr]  # names have a dot
    return PREFIXES[part] + rest


def translate(tensors: Mapping[str, Tensor], *, where: str) -> Translated:
    """The tensors of an openpi or LeRobot file by our names."""
    named = {_openpi(name): tensor for name, tensor in tensors.items()}
    if len(named) < len(tensors):
        raise CheckpointError(
            f"{where}: expected each weight once, found {len(tensors) - len(named)} under two names. Get the file "
            f"again."
        )
    notes = []
    if named.pop(EXPERT_HEAD, None) is not None:
        notes.append(f"left out {EXPERT_HEAD}: no action depends on it")
    head = named.pop(LM_HEAD, None)
    if head is not None and EMBEDDING not in named:
        named[EMBEDDING] = head
        notes.append(f"took {EMBEDDING} from {LM_HEAD}: openpi keeps one tensor under both names")
    elif head is not None:
        relation = "equal to" if torch.equal(head, named[EMBEDDING]) else "other than"
        notes.append(f"left out {LM_HEAD}: {relation} the embedding, and no action depends on it")
    weights = {ours: tensor for name, tensor in named.items() if (ours := _ours(name))}
    return Translated(weights, tuple(notes), tuple(name for name in named if not _ours(name)))


def untranslate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights by openpi's names, without what `translate` leaves out."""
    return {theirs(name): tensor for name, tensor in weights.items()}


def _openpi(name: str) -> str:
    """openpi's form of a name in an openpi or LeRobot file."""
    name = name.removeprefix(LEROBOT)
    if name.startswith(VISION) and not name.startswith(PREFIXES["vision."]):
        return PREFIXES["vision."] + name.removeprefix(VISION)  # transformers writes one level less from 5.6 on
    return name


def _ours(name: str) -> str | None:
    for part, prefix in PREFIXES.items():
        if name.startswith(prefix):
            return part + name.removeprefix(prefix)
    return None
