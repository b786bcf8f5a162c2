"""Gemma's transformer layers, written so that several token streams with weights of their own can share one attention.

pi0 and pi0.5 need this: the layers of the language model and those of the action expert work side by side, and in each
layer action tokens attend to the keys and values of the prefix. Names of weights are those of transformers' Gemma, so
that checkpoints map by prefix. Gemma: arXiv:2403.08295; adaptive norms: DiT, arXiv:2212.09748, as pi0.5 uses them
(arXiv:2504.16054).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from jaxtyping import Bool, Float, Float32, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from vla.config import Config
from vla.models.attention import MASKED

EPSILON = 1e-6
ROTARY_BASE = 10_000.0
AttentionName = Literal["sdpa", "eager"]
Size = Annotated[int, Field(gt=0)]


class GemmaSize(Config):
    """Sizes of a Gemma transformer."""

    width: Size
    depth: Size
    mlp_dim: Size
    heads: Size
    kv_heads: Size
    """Heads of keys and values; each serves `heads / kv_heads` heads of queries."""
    head_dim: Size

    @model_validator(mode="after")
    def _heads_can_be_grouped_and_turned(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"expected heads that {self.kv_heads} kv_heads divide, found {self.heads}")
        if self.head_dim % 2:
            raise ValueError(f"expected an even head_dim, whose halves RoPE turns by positions, found {self.head_dim}")
        return self


@dataclass(frozen=True, slots=True)
class KeysValues:
    """What one layer's tokens offer to be attended to; E is the dimension of a head."""

    key_BKNE: Float[Tensor, "B kv_heads N E"]
    value_BKNE: Float[Tensor, "B kv_heads N E"]


@dataclass(frozen=True, slots=True)
class Rotary:
    """Cosines and sines that turn queries and keys by their positions (RoPE, arXiv:2104.09864)."""

    cos_B1NE: Float32[Tensor, "B 1 N E"]
    sin_B1NE: Float32[Tensor, "B 1 N E"]

    @classmethod
    def at(cls, position_BN: Int64[Tensor, "B N"], head_dim: int) -> "Rotary":
        """Those of the given positions."""
        steps = torch.arange(0, head_dim, 2, device=position_BN.device, dtype=torch.float32) / head_dim
        angle = position_BN.float()[:, None, :, None] / ROTARY_BASE**steps
        angle = torch.cat([angle, angle], dim=-1)
        return cls(angle.cos(), angle.sin())

    def turn(self, x_BKNE: Float[Tensor, "B K N E"]) -> Float[Tensor, "B K N E"]:
        """Rotate each pair of dimensions (i, i + E / 2); computed in float32."""
        first, second = x_BKNE.float().chunk(2, dim=-1)
        turned = torch.cat([first, second], dim=-1) * self.cos_B1NE
        return (turned + torch.cat([-second, first], dim=-1) * self.sin_B1NE).to(x_BKNE.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale 1 + weight; its residual has no gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(
        self, x_BND: Float[Tensor, "B N D"], condition_BNE: Tensor | None
    ) -> tuple[Float[Tensor, "B N D"], None]:
        """The normed tokens, and no gate."""
        del condition_BNE
        return (normed(x_BND) * (1 + self.weight.float())).to(x_BND.dtype), None


class AdaptiveRMSNorm(nn.Module):
    """adaRMS: scale, shift and the gate of the residual come out of a condition, here the flow time.

    All three begin at 0, so that each layer begins as the identity.
    """

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(condition_width, 3 * width)
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def forward(
        self, x_BND: Float[Tensor, "B N D"], condition_BNE: Tensor | None
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N D"]]:
        """The normed tokens, and the gate by which what is made of them is multiplied."""
        scale, shift, gate = self.dense(condition_BNE).chunk(3, dim=-1)
        return (normed(x_BND) * (1 + scale.float()) + shift.float()).to(x_BND.dtype), gate


def normed(x_BND: Float[Tensor, "B N D"]) -> Float32[Tensor, "B N D"]:
    """Divided by the root mean square, in float32."""
    x = x_BND.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)


def gated(x_BND: Tensor, change_BND: Tensor, gate_BND: Tensor | None) -> Tensor:
    """The residual connection."""
    return x_BND + (change_BND if gate_BND is None else gate_BND * change_BND)


def attend(
    query_BKNE: Float[Tensor, "B heads N E"],
    offered: KeysValues,
    mask_BxNM: Float[Tensor, "B 1 N M"] | Float[Tensor, "B 1 1 M"],
    attention: AttentionName,
) -> Float[Tensor, "B N heads*E"]:
    """Attention of N queries to M keys; `mask` is added to the logits, so that both implementations read it alike."""
    b, heads, n, e = query_BKNE.shape
    groups = heads // offered.key_BKNE.shape[1]
    # Views where there is one head of keys, as in PaliGemma.
    key, value = (
        x.unsqueeze(2).expand(-1, -1, groups, -1, -1).flatten(1, 2) for x in (offered.key_BKNE, offered.value_BKNE)
    )
    if attention == "sdpa":
        mask = mask_BxNM.to(query_BKNE.dtype)
        mixed = functional.scaled_dot_product_attention(query_BKNE, key, value, attn_mask=mask)
    else:
        logits = query_BKNE @ key.transpose(-1, -2) / math.sqrt(e) + mask_BxNM
        mixed = logits.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value
    return mixed.transpose(1, 2).reshape(b, n, heads * e)


class Attention(nn.Module):
    """The projections of one stream's layer."""

    def __init__(self, size: GemmaSize) -> None:
        super().__init__()
        self.head_dim = size.head_dim
        self.q_proj = nn.Linear(size.width, size.heads * size.head_dim, bias=False)
        self.k_proj = nn.Linear(size.width, size.kv_heads * size.head_dim, bias=False)
        self.v_proj = nn.Linear(size.width, size.kv_heads * size.head_dim, bias=False)
        self.o_proj = nn.Linear(size.heads * size.head_dim, size.width, bias=False)

    def split(self, x_BNF: Float[Tensor, "B N F"]) -> Float[Tensor, "B K N E"]:
        """Into heads."""
        return x_BNF.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class FeedForward(nn.Module):
    """Gated GELU."""

    def __init__(self, size: GemmaSize) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.width, size.mlp_dim, bias=False)
        self.up_proj = nn.Linear(size.width, size.mlp_dim, bias=False)
        self.down_proj = nn.Linear(size.mlp_dim, size.width, bias=False)

    def forward(self, x_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return self.down_proj(functional.gelu(self.gate_proj(x_BND), approximate="tanh") * self.up_proj(x_BND))


class GemmaLayer(nn.Module):
    """One layer of one stream."""

    def __init__(self, size: GemmaSize, *, condition_width: int | None, attention: AttentionName) -> None:
        super().__init__()
        self.attention = attention
        self.input_layernorm = make_norm(size.width, condition_width)
        self.self_attn = Attention(size)
        self.post_attention_layernorm = make_norm(size.width, condition_width)
        self.mlp = FeedForward(size)

    def forward(
        self,
        x_BND: Float[Tensor, "B N D"],
        rotary: Rotary,
        mask_BxNM: Float[Tensor, "B 1 N M"] | Float[Tensor, "B 1 1 M"],
        *,
        before: KeysValues | None = None,
        condition_BNE: Float[Tensor, "B N E"] | None = None,
    ) -> tuple[Float[Tensor, "B N D"], KeysValues]:
        """The layer's output, and the keys and values of its own tokens.

        The tokens attend to those `before` them, of whatever stream, and to each other: M is both together.
        """
        x, gate = self.input_layernorm(x_BND, condition_BNE)
        own = self._offer(x, rotary)
        query = rotary.turn(self.self_attn.split(self.self_attn.q_proj(x)))
        mixed = attend(query, own if before is None else joined(before, own), mask_BxNM, self.attention)
        x_BND = gated(x_BND, self.self_attn.o_proj(mixed), gate)
        x, gate = self.post_attention_layernorm(x_BND, condition_BNE)
        return gated(x_BND, self.mlp(x), gate), own

    def offer(self, x_BND: Float[Tensor, "B N D"], rotary: Rotary) -> KeysValues:
        """The keys and values of tokens alone, for a last layer whose output nobody reads."""
        return self._offer(self.input_layernorm(x_BND, None)[0], rotary)

    def _offer(self, x_BND: Tensor, rotary: Rotary) -> KeysValues:
        attn = self.self_attn
        return KeysValues(rotary.turn(attn.split(attn.k_proj(x_BND))), attn.split(attn.v_proj(x_BND)))


def joined(first: KeysValues, second: KeysValues) -> KeysValues:
    """The tokens of both, in the type of the second and in a new tensor: what was computed once stays as it is."""
    return KeysValues(
        torch.cat([first.key_BKNE.to(second.key_BKNE.dtype), second.key_BKNE], dim=2),
        torch.cat([first.value_BKNE.to(second.value_BKNE.dtype), second.value_BKNE], dim=2),
    )


def make_norm(width: int, condition_width: int | None) -> RMSNorm | AdaptiveRMSNorm:
    """An adaptive norm where there is a condition."""
    return RMSNorm(width) if condition_width is None else AdaptiveRMSNorm(width, condition_width)


def positions(is_pad_BN: Bool[Tensor, "B N"]) -> Int64[Tensor, "B N"]:
    """Valid tokens are numbered from 0 as if the padded ones were not there."""
    return ((~is_pad_BN).cumsum(dim=-1) - 1).clamp(min=0)


def block_mask(prefix_is_pad_BN: Bool[Tensor, "B N"], block_S: Int64[Tensor, "S"]) -> Float32[Tensor, "B 1 S N+S"]:
    """Additive mask of S suffix tokens: each sees the valid prefix, its own block and those before it."""
    sees_SS = block_S[None, :] <= block_S[:, None]
    b, s = len(prefix_is_pad_BN), len(block_S)
    hidden = torch.cat([prefix_is_pad_BN[:, None].expand(b, s, -1), ~sees_SS.expand(b, s, s)], dim=-1)
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill(hidden, MASKED)[:, None]
