"""The settings of pi0 and pi0.5 that can be read off their weights."""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from vla.errors import CheckpointError
from vla.models.checkpoints.names import theirs

Kind = Literal["pi0", "pi05"]
HEADS = 8
"""Attention heads of both Gemmas: fixed in openpi and LeRobot, and not to be seen in the weights."""
VISION_HEADS = {1152: 16}
"""Width of SigLIP -> its heads: those of so400m, the one that has been published."""
TOLD_BY: Mapping[str, Kind] = {"time_in.weight": "pi05", "action_time_in.weight": "pi0"}


def kind_of(weights: Mapping[str, Tensor], *, where: str) -> Kind:
    """Which of the policies the weights are of."""
    found = [kind for name, kind in TOLD_BY.items() if name in weights]
    if len(found) != 1:
        raise CheckpointError(
            f"{where}: expected the weights of pi0 or pi0.5, found {'both' if found else 'neither'} (time_mlp_in or "
            f"action_time_mlp_in decides). Only these two can be imported."
        )
    return found[0]


class Sizes:
    """Sizes of a model, read off the shapes of its weights."""

    def __init__(self, weights: Mapping[str, Tensor], *, where: str, vision_heads: int | None) -> None:
        self._weights, self._where, self._vision_heads = weights, where, vision_heads

    @property
    def image_size(self) -> int:
        """Rows and columns of an image."""
        tokens = self._shape("vision.embeddings.position_embedding.weight", 2)[0]
        side = math.isqrt(tokens)
        if side**2 != tokens:
            raise CheckpointError(
                f"{self._where}: expected a square of image tokens, found {tokens}. Only square images can be imported."
            )
        return side * self._vision()["patch_size"]

    def policy(self, kind: Kind) -> dict[str, Any]:
        """Section `policy` as far as the weights decide it."""
        state = {"max_state_dim": self._shape("state_in.weight", 2)[1]} if kind == "pi0" else {}
        return {
            "name": kind,
            "max_action_dim": self._shape("action_in.weight", 2)[1],
            **state,
            "vision": self._vision(),
            "language": self._gemma("language"),
            "expert": self._gemma("expert"),
            "vocabulary": self._shape("language.embed_tokens.weight", 2)[0],
        }

    def _vision(self) -> dict[str, int]:
        width, _, patch, _ = self._shape("vision.embeddings.patch_embedding.weight", 4)
        heads = self._vision_heads or VISION_HEADS.get(width)
        if heads is None:
            raise CheckpointError(
                f"{self._where}: expected a SigLIP of width {' or '.join(map(str, VISION_HEADS))}, found {width}, "
                f"whose attention heads the weights do not tell. Give --vision-heads."
            )
        mlp_dim = self._shape("vision.encoder.layers.0.mlp.fc1.weight", 2)[0]
        depth = self._depth("vision.encoder")
        return {"width": width, "depth": depth, "mlp_dim": mlp_dim, "heads": heads, "patch_size": patch}

    def _gemma(self, part: str) -> dict[str, int]:
        first = f"{part}.layers.0"
        queries, width = self._shape(f"{first}.self_attn.q_proj.weight", 2)
        keys = self._shape(f"{first}.self_attn.k_proj.weight", 2)[0]
        head_dim = queries // HEADS
        if queries % HEADS or not head_dim or keys % head_dim:
            raise CheckpointError(
                f"{self._where}: expected {HEADS} heads in {part}, found {queries} rows of queries and {keys} of keys, "
                f"which they do not divide. Only models with {HEADS} heads can be imported."
            )
        mlp_dim = self._shape(f"{first}.mlp.gate_proj.weight", 2)[0]
        return {
            "width": width,
            "depth": self._depth(part),
            "mlp_dim": mlp_dim,
            "heads": HEADS,
            "kv_heads": keys // head_dim,
            "head_dim": head_dim,
        }

    def _depth(self, part: str) -> int:
        """Layers up to the last one that there is a weight of."""
        found = (re.match(rf"{re.escape(part)}\.layers\.(\d+)\.", name) for name in self._weights)
        return 1 + max(int(match[1]) for match in found if match)

    def _shape(self, name: str, axes: int) -> tuple[int, ...]:
        if name not in self._weights:
            raise CheckpointError(f"{self._where}: expected the weight {theirs(name)}, found none. Get the file again.")
        shape = tuple(self._weights[name].shape)
        if len(shape) != axes:
            raise CheckpointError(
                f"{self._where}: expected {theirs(name)} with {axes} axes, found the shape {list(shape)}. Get the file "
                f"again."
            )
        return shape
