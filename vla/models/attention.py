"""Transformer blocks of the policies that we train from scratch: pre-norm, scaled-dot-product attention.

Masks are additive float tensors of four axes (batch, head, query, key): 0 = attend, a large negative number = not.
Boolean masks mean opposite things in different attention implementations, so they stop at `padding_mask`.
"""

import math

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn
from torch.nn import functional

MASKED = -3e4
"""Finite in float16 as well, so that a row without any key to attend to stays finite too."""


def padding_mask(is_pad_BN: Bool[Tensor, "B N"]) -> Float32[Tensor, "B 1 1 N"]:
    """Additive mask that hides padded keys from every query."""
    mask = torch.zeros(is_pad_BN.shape, dtype=torch.float32, device=is_pad_BN.device)
    return mask.masked_fill(is_pad_BN, MASKED)[:, None, None, :]


def time_features(
    time_QH: Float[Tensor, "Q H"], width: int, *, dtype: torch.dtype = torch.float32
) -> Float32[Tensor, "Q H width"]:
    """Sines and cosines of flow time with periods from 4e-3 to 4 (openpi), in `dtype` whatever autocast says."""
    periods = torch.logspace(math.log10(4e-3), math.log10(4.0), width // 2, device=time_QH.device, dtype=dtype)
    phase = 2 * math.pi * time_QH.to(dtype).unsqueeze(-1) / periods
    return torch.cat([phase.sin(), phase.cos()], dim=-1).float()


class Attention(nn.Module):
    """Multi-head attention of queries `x` to `context`, which is `x` itself for self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x_BND: Float[Tensor, "B N D"],
        context_BMD: Float[Tensor, "B M D"],
        mask: Float[Tensor, "B 1 1 M"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        b, n, d = x_BND.shape
        query = self.query(x_BND).view(b, n, self.heads, d // self.heads).transpose(1, 2)
        pair = self.key_value(context_BMD).view(b, -1, 2, self.heads, d // self.heads)
        key, value = pair.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(b, n, d))


class FeedForward(nn.Sequential):
    """Two linear layers around a GELU."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))


class SelfBlock(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm_feed, self.feed = nn.LayerNorm(width), FeedForward(width)

    def forward(self, x_BND: Float[Tensor, "B N D"], mask: Float[Tensor, "B 1 1 N"] | None) -> Float[Tensor, "B N D"]:
        normed = self.norm_attention(x_BND)
        x_BND = x_BND + self.attention(normed, normed, mask)
        return x_BND + self.feed(self.norm_feed(x_BND))


class CrossBlock(nn.Module):
    """Self-attention among the queries, attention to the context, then feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_self, self.self_attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm_cross, self.cross_attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm_feed, self.feed = nn.LayerNorm(width), FeedForward(width)

    def forward(
        self,
        x_BND: Float[Tensor, "B N D"],
        context_BMD: Float[Tensor, "B M D"],
        context_mask: Float[Tensor, "B 1 1 M"] | None,
    ) -> Float[Tensor, "B N D"]:
        normed = self.norm_self(x_BND)
        x_BND = x_BND + self.self_attention(normed, normed)
        x_BND = x_BND + self.cross_attention(self.norm_cross(x_BND), context_BMD, context_mask)
        return x_BND + self.feed(self.norm_feed(x_BND))
