"""What pi0 and pi0.5 have in common: a PaliGemma prefix, and an action expert that attends to it layer by layer.

    images --SigLIP--> tokens --\\
                                 prefix --language model--> keys and values of every layer (the context, computed once)
    text ---embedding--> tokens-/                                |
                                                                 v attended to, layer by layer
    noisy actions, flow time (state) --> suffix --action expert--> velocity

The prefix never sees the suffix, so that computing it first and once is equal to computing both together as the
references do (openpi; pi0: arXiv:2410.24164, pi0.5: arXiv:2504.16054).
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from jaxtyping import Bool, Float, Float32, Int64
from pydantic import Field, field_validator
from torch import Tensor, nn

from vla.errors import ConfigError
from vla.models.attention import padding_mask, time_features
from vla.models.backbone import SiglipSize, VisionTower
from vla.models.gemma import (
    AttentionName,
    GemmaLayer,
    GemmaSize,
    KeysValues,
    Rotary,
    block_mask,
    make_norm,
    positions,
)
from vla.models.policy import Encoded, Interface, Memory, Observation, Policy, PolicyConfig
from vla.registry import did_you_mean
from vla.terms import PolicySpec

Size = Annotated[int, Field(gt=0)]
SIZES: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "vision": {"so400m": {"width": 1152, "depth": 27, "mlp_dim": 4304, "heads": 16, "patch_size": 14}},
    "language": {
        "gemma_2b": {"width": 2048, "depth": 18, "mlp_dim": 16384, "heads": 8, "kv_heads": 1, "head_dim": 256},
    },
    "expert": {
        "gemma_300m": {"width": 1024, "depth": 18, "mlp_dim": 4096, "heads": 8, "kv_heads": 1, "head_dim": 256},
    },
}
"""Part -> name of a published size -> its numbers (openpi)."""


class PiConfig(PolicyConfig):
    """Section `policy` of pi0 and pi0.5."""

    transferable: ClassVar[frozenset[str]] = frozenset(
        {
            "views",
            "state dimensions",
            "action dimensions",
            "transforms.max_tokens",
            "policy.action_horizon",
            "policy.attention",
            "policy.frozen_dtype",
            "policy.freeze_vision_tower",
            "policy.freeze_language_model",
        }
    )

    max_action_dim: Size
    """Width of the action projections; the data's actions are filled up with zeros (32 in the published weights)."""
    vision: SiglipSize
    """Sizes, or the name of published ones: so400m."""
    language: GemmaSize
    """Sizes, or the name of published ones: gemma_2b."""
    expert: GemmaSize
    """Sizes, or the name of published ones: gemma_300m."""
    vocabulary: Size | None
    """Rows of the embedding (257152 in the published weights); null for those that the tokenizer needs."""
    attention: AttentionName
    """sdpa: torch's fused kernels; eager: written out, in float32 softmax; equal up to rounding."""
    freeze_vision_tower: bool
    freeze_language_model: bool
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen parts; bfloat16 halves their memory and rounds what they compute."""

    @field_validator("vision", "language", "expert", mode="before")
    @classmethod
    def _by_name(cls, value: Any, info: Any) -> Any:
        if not isinstance(value, str):
            return value
        known = SIZES[info.field_name]
        if value not in known:
            raise ValueError(
                f"expected sizes or one of {', '.join(known)}, found {value!r}.{did_you_mean(value, list(known))} "
                f"Correct it"
            )
        return dict(known[value])


@dataclass(frozen=True, slots=True)
class Prefix:
    """The context of a prediction: what each layer of the expert attends to."""

    layers: tuple[KeysValues, ...]
    is_pad_QN: Bool[Tensor, "Q N"]
    state_QS: Float32[Tensor, "Q S"]


@dataclass(frozen=True, slots=True)
class Suffix:
    """What the action expert reads; the last H tokens are those of the actions."""

    tokens_QSD: Float[Tensor, "Q S D"]
    condition_QSE: Float[Tensor, "Q S E"] | None
    """Of the adaptive norms, per token."""
    block_S: Int64[Tensor, "S"]
    """A token sees those of its own block and of earlier ones."""


class Language(nn.Module):
    """Gemma as the reader of the prefix: only keys and values of its layers are of use."""

    def __init__(self, size: GemmaSize, *, vocabulary: int, attention: AttentionName) -> None:
        super().__init__()
        self.width = size.width
        self.embed_tokens = nn.Embedding(vocabulary, size.width)
        # Scaled by the root of the width below, so that tokens begin with a variance of 1.
        nn.init.normal_(self.embed_tokens.weight, std=1 / math.sqrt(size.width))
        layers = [GemmaLayer(size, condition_width=None, attention=attention) for _ in range(size.depth)]
        self.layers = nn.ModuleList(layers)
        self.norm = make_norm(size.width, None)
        # Nothing reads what the last layer makes of its tokens, nor the norm behind it: these weights are carried along
        # for checkpoints of other projects, and a parameter that never gets a gradient must not be waited for.
        last = layers[-1]
        for unread in (
            last.self_attn.q_proj,
            last.self_attn.o_proj,
            last.post_attention_layernorm,
            last.mlp,
            self.norm,
        ):
            unread.requires_grad_(requires_grad=False)

    def embed(self, tokens_BL: Int64[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Embedded text, scaled as Gemma does; image tokens are not."""
        return self.embed_tokens(tokens_BL) * math.sqrt(self.width)

    def forward(
        self, x_BND: Float[Tensor, "B N D"], rotary: Rotary, mask_B11N: Float32[Tensor, "B 1 1 N"]
    ) -> tuple[KeysValues, ...]:
        """Keys and values of every layer; all valid tokens see each other."""
        offered = []
        *layers, last = cast("Sequence[GemmaLayer]", self.layers)
        for layer in layers:
            x_BND, own = layer(x_BND, rotary, mask_B11N)
            offered.append(own)
        return (*offered, last.offer(x_BND, rotary))


class Expert(nn.Module):
    """Gemma as the reader of the suffix, with the prefix of each layer before it."""

    def __init__(self, size: GemmaSize, *, condition_width: int | None, attention: AttentionName) -> None:
        super().__init__()
        layers = [GemmaLayer(size, condition_width=condition_width, attention=attention) for _ in range(size.depth)]
        self.layers = nn.ModuleList(layers)
        self.norm = make_norm(size.width, condition_width)

    def forward(
        self, suffix: Suffix, before: Sequence[KeysValues], rotary: Rotary, mask_Q1SM: Float32[Tensor, "Q 1 S M"]
    ) -> Float[Tensor, "Q S D"]:
        x, condition = suffix.tokens_QSD, suffix.condition_QSE
        for layer, prefix in zip(self.layers, before, strict=True):
            x, _ = layer(x, rotary, mask_Q1SM, before=prefix, condition_BNE=condition)
        return self.norm(x, condition)[0]


class PiPolicy(Policy[Prefix]):
    """Base of pi0 and pi0.5, which differ in how flow time and state enter the suffix."""

    def __init__(self, cfg: PiConfig, spec: PolicySpec, *, adaptive: bool) -> None:
        super().__init__()
        self.spec = spec
        width, condition_width = cfg.expert.width, cfg.expert.width if adaptive else None
        self.frozen_prefix = cfg.freeze_vision_tower and cfg.freeze_language_model
        self.vision = VisionTower(cfg.vision, image_size=spec.image_size[0], attention=cfg.attention)
        self.project = nn.Linear(cfg.vision.width, cfg.language.width)
        vocabulary = cfg.vocabulary or spec.vocabulary
        self.language = Language(cfg.language, vocabulary=vocabulary, attention=cfg.attention)
        self.expert = Expert(cfg.expert, condition_width=condition_width, attention=cfg.attention)
        self.head_dim = cfg.language.head_dim
        self.action_in, self.action_out = nn.Linear(spec.action_dim, width), nn.Linear(width, spec.action_dim)
        parts = ((cfg.freeze_vision_tower, self.vision), (cfg.freeze_vision_tower, self.project))
        for frozen, part in (*parts, (cfg.freeze_language_model, self.language)):
            if frozen:
                part.requires_grad_(requires_grad=False).to(getattr(torch, cfg.frozen_dtype))

    @abstractmethod
    def suffix(
        self, context: Prefix, noisy_actions_QHA: Float[Tensor, "Q H A"], time_QHD: Float32[Tensor, "Q H D"]
    ) -> Suffix:
        """The tokens of the expert; `time` are the sines and cosines of each action token's flow time."""

    def encode(self, obs: Observation, memory: Memory) -> Encoded[Prefix]:
        """Read the last step; earlier steps of a window are not used."""
        if obs.images_BTVCYX is None:
            raise AssertionError(f"{type(self).__name__} reads images, found none")
        pixels = obs.images_BTVCYX[:, -1].float() / 127.5 - 1
        prefix = self.prefix(
            pixels,
            image_is_pad_BV=obs.image_is_pad_BTV[:, -1],
            tokens_BL=obs.tokens_BTL[:, -1],
            token_is_pad_BL=obs.token_is_pad_BTL[:, -1],
            state_BS=obs.state_BTS[:, -1],
        )
        return Encoded(prefix, memory, {})

    def prefix(
        self,
        pixels_BVCYX: Float[Tensor, "B V C Y X"],
        *,
        image_is_pad_BV: Bool[Tensor, "B V"],
        tokens_BL: Int64[Tensor, "B L"],
        token_is_pad_BL: Bool[Tensor, "B L"],
        state_BS: Float32[Tensor, "B S"],
    ) -> Prefix:
        """Pixels in [-1, 1] and text to what the expert attends to; nobody sees absent cameras and padded text."""
        with torch.no_grad() if self.frozen_prefix else nullcontext():
            pixels = pixels_BVCYX.flatten(0, 1).to(self.project.weight.dtype)
            images = self.project(self.vision(pixels)).unflatten(0, pixels_BVCYX.shape[:2])
            image_is_pad = image_is_pad_BV.repeat_interleave(images.shape[2], dim=1)
            text = self.language.embed(tokens_BL)
            tokens = torch.cat([images.flatten(1, 2).to(text.dtype), text], dim=1)
            is_pad = torch.cat([image_is_pad, token_is_pad_BL], dim=1)
            layers = self.language(tokens, Rotary.at(positions(is_pad), self.head_dim), padding_mask(is_pad))
        return Prefix(layers, is_pad, state_BS)

    def velocity(
        self, context: Prefix, noisy_actions_QHA: Float[Tensor, "Q H A"], time_QH: Float[Tensor, "Q H"]
    ) -> Float32[Tensor, "Q H A"]:
        """The predicted d(noisy actions)/d(time)."""
        horizon, width = noisy_actions_QHA.shape[1], self.action_out.in_features
        # In float64, as the references: a period of 4e-3 makes 250 turns, of which float32 keeps four digits.
        time = time_features(time_QH, width, dtype=torch.float64)
        suffix = self.suffix(context, noisy_actions_QHA, time)
        count_Q1 = (~context.is_pad_QN).sum(dim=1, keepdim=True)
        rotary = Rotary.at(count_Q1 + torch.arange(len(suffix.block_S), device=count_Q1.device), self.head_dim)
        mask = block_mask(context.is_pad_QN, suffix.block_S)
        x = self.expert(suffix, context.layers, rotary, mask)[:, -horizon:]
        # A velocity narrower than float32 loses small errors.
        with torch.autocast(x.device.type, enabled=False):
            return self.action_out(x.to(self.action_out.weight.dtype)).float()

    def action_output(self) -> nn.Linear:
        return self.action_out

    def checkpointed_blocks(self) -> Sequence[nn.Module]:
        return (*self.vision.layers, *self.language.layers[:-1], *self.expert.layers)


def make_spec(cfg: PiConfig, interface: Interface) -> PolicySpec:
    """The interface of pi0 or pi0.5 to this data; raises ConfigError for what cannot work together."""
    rows, columns = interface.image_size
    if rows != columns or rows % cfg.vision.patch_size:
        raise ConfigError(
            f"transforms.image_size: expected a square of a multiple of policy.vision.patch_size "
            f"({cfg.vision.patch_size}), found {list(interface.image_size)}. Choose such a size."
        )
    if interface.action_dim > cfg.max_action_dim:
        raise ConfigError(
            f"policy.max_action_dim: expected at least the {interface.action_dim} action dimensions of the data, "
            f"found {cfg.max_action_dim}. Raise it."
        )
    for key in ("depth", "heads", "kv_heads", "head_dim"):
        language, expert = getattr(cfg.language, key), getattr(cfg.expert, key)
        if language != expert:
            raise ConfigError(
                f"policy.expert.{key}: expected that of policy.language ({language}), because their layers share one "
                f"attention, found {expert}. Make them equal."
            )
    if cfg.vocabulary is not None and cfg.vocabulary < interface.vocabulary:
        raise ConfigError(
            f"policy.vocabulary: expected at least the {interface.vocabulary} ids of the tokenizer, found "
            f"{cfg.vocabulary}. Raise it, or set it to null."
        )
    padded = cfg.max_action_dim - interface.action_dim
    return interface.spec(cfg, action_dim=cfg.max_action_dim, padded_action_dims=padded)
