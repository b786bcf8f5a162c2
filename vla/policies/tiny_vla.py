"""tiny_vla: a vision-language-action policy of about one million parameters that trains on two CPU cores.

A convolutional stem per image, the instruction's words and the state become one sequence; a small transformer
encodes it; a cross-attending expert denoises the action chunk. The stem is convolutional because a patch
transformer needs three times the CPU time for a lower success rate at this size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Float32, UInt8
from pydantic import Field
from torch import Tensor, nn

from vla.errors import ConfigError
from vla.models.action_expert import CrossAttentionExpert
from vla.models.attention import SelfBlock, padding_mask
from vla.models.policy import Encoded, FrozenEncoder, Interface, Memory, Observation, Policy, PolicyConfig
from vla.terms import PolicySpec

STRIDE = 16
"""Pixels of image per token, along rows and columns."""


class Config(PolicyConfig):
    """Section `policy` for tiny_vla."""

    name: Literal["tiny_vla"]
    width: Annotated[int, Field(gt=0)]
    heads: Annotated[int, Field(gt=0)]
    encoder_layers: Annotated[int, Field(gt=0)]
    expert_layers: Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Context:
    """Encoded tokens of the predicted steps and the additive mask of their padding."""

    tokens_QND: Float[Tensor, "Q N D"]
    mask: Float32[Tensor, "Q 1 1 N"]


class ConvStem(nn.Sequential):
    """Image to a grid of tokens, one per 16 x 16 pixels.

    The first layer takes patches of 4 x 4 pixels: overlapping filters at full resolution cost more than the rest of
    the stem and learn no better.
    """

    def __init__(self, width: int) -> None:
        half = width // 2
        layers: list[nn.Module] = [nn.Conv2d(3, half, kernel_size=4, stride=4), nn.GroupNorm(4, half), nn.SiLU()]
        for before in (half, width):
            layers += [nn.Conv2d(before, width, kernel_size=3, stride=2, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
        super().__init__(*layers)


class TinyVLA(Policy[Context]):
    """See the module's docstring."""

    def __init__(self, cfg: Config, spec: PolicySpec) -> None:
        super().__init__()
        self.spec = spec
        rows, columns = spec.image_size
        views, width = len(spec.views), cfg.width
        grid = (rows // STRIDE) * (columns // STRIDE)
        self.stem = ConvStem(width)
        self.embed_image = nn.Parameter(0.02 * torch.randn(views, grid, width))
        self.embed_token = nn.Embedding(spec.vocabulary, width)
        self.embed_position = nn.Parameter(0.02 * torch.randn(spec.max_tokens, width))
        self.embed_state = nn.Sequential(nn.Linear(spec.state_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(SelfBlock(width, cfg.heads) for _ in range(cfg.encoder_layers))
        self.norm = nn.LayerNorm(width)
        self.expert = CrossAttentionExpert(
            action_dim=spec.action_dim,
            action_horizon=spec.action_horizon,
            width=width,
            heads=cfg.heads,
            layers=cfg.expert_layers,
        )

    def encode(self, obs: Observation, memory: Memory) -> Encoded[Context]:
        """Encode the last step; earlier steps of a window are not used."""
        if obs.images_BTVCYX is None:
            raise AssertionError("tiny_vla has no frozen part: its images cannot be replaced by features")
        images = self._image_tokens(obs.images_BTVCYX[:, -1])
        text = self.embed_token(obs.tokens_BTL[:, -1]) + self.embed_position
        state = self.embed_state(obs.state_BTS[:, -1]).unsqueeze(1)
        tokens = torch.cat([images, text, state], dim=1)
        image_is_pad = obs.image_is_pad_BTV[:, -1].repeat_interleave(self.embed_image.shape[1], dim=1)
        state_is_pad = torch.zeros_like(image_is_pad[:, :1])
        mask = padding_mask(torch.cat([image_is_pad, obs.token_is_pad_BTL[:, -1], state_is_pad], dim=1))
        for block in self.blocks:
            tokens = block(tokens, mask)
        return Encoded(Context(self.norm(tokens), mask), memory, {})

    def velocity(
        self, context: Context, noisy_actions_QHA: Float[Tensor, "Q H A"], time_QH: Float[Tensor, "Q H"]
    ) -> Float32[Tensor, "Q H A"]:
        """The predicted d(noisy actions)/d(time)."""
        return self.expert(noisy_actions_QHA, time_QH, context.tokens_QND, context.mask)

    def action_output(self) -> nn.Linear:
        return self.expert.to_velocity

    def checkpointed_blocks(self) -> Sequence[nn.Module]:
        return (*self.blocks, *self.expert.blocks)

    def _image_tokens(self, images_BVCYX: UInt8[Tensor, "B V C Y X"]) -> Float[Tensor, "B N D"]:
        b, v = images_BVCYX.shape[:2]
        pixels = images_BVCYX.flatten(0, 1).to(self.embed_image.dtype) / 127.5 - 1
        grid = self.stem(pixels)  # [B * V, D, Y / 16, X / 16]
        tokens = grid.flatten(2).transpose(1, 2).unflatten(0, (b, v)) + self.embed_image
        return tokens.flatten(1, 2)


def make_spec(cfg: Config, interface: Interface) -> PolicySpec:
    """The policy's interface to this data; the image must be made of whole tokens."""
    if any(size % STRIDE for size in interface.image_size):
        raise ConfigError(
            f"transforms.image_size: expected multiples of {STRIDE} for policy tiny_vla, "
            f"found {list(interface.image_size)}. Choose such a size."
        )
    if cfg.width % cfg.heads or cfg.width % 8:
        raise ConfigError(
            f"policy.width: expected a multiple of 8 and of policy.heads ({cfg.heads}), found {cfg.width}."
        )
    return interface.spec(cfg)


def build(cfg: Config, spec: PolicySpec) -> tuple[TinyVLA, FrozenEncoder | None]:
    """A freshly initialised policy; it has no frozen part."""
    return TinyVLA(cfg, spec), None
