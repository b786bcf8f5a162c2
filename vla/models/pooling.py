"""From the hidden states of one step to a few numbers: a resampler per token, then a vector for all tokens."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla.models.attention import Attention, padding_mask

PoolName = Literal["mean", "last", "query"]
QUERY_HEADS = 4
"""Attention heads of a learned query."""


class MlpResampler(nn.Sequential):
    """Each token to `output_dim` numbers by itself.

    The norm comes first because hidden states between the layers of a language model grow to hundreds.
    """

    def __init__(self, input_dim: int, output_dim: int) -> None:
        super().__init__(
            nn.LayerNorm(input_dim), nn.Linear(input_dim, output_dim), nn.GELU(), nn.Linear(output_dim, output_dim)
        )


class MeanPool(nn.Module):
    """The mean of the valid tokens."""

    def forward(self, tokens_NMD: Float[Tensor, "N M D"], is_pad_NM: Bool[Tensor, "N M"]) -> Float[Tensor, "N D"]:
        return masked_mean(tokens_NMD, is_pad_NM)


class LastPool(nn.Module):
    """The last valid token, which has read all others."""

    def forward(self, tokens_NMD: Float[Tensor, "N M D"], is_pad_NM: Bool[Tensor, "N M"]) -> Float[Tensor, "N D"]:
        place_M = torch.arange(is_pad_NM.shape[1], device=is_pad_NM.device)
        last_N = torch.where(is_pad_NM, -1, place_M).amax(dim=1).clamp(min=0)
        return tokens_NMD[torch.arange(len(last_N), device=last_N.device), last_N]


class QueryPool(nn.Module):
    """What a learned query finds among the valid tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(1, width))
        self.attention = Attention(width, QUERY_HEADS)

    def forward(self, tokens_NMD: Float[Tensor, "N M D"], is_pad_NM: Bool[Tensor, "N M"]) -> Float[Tensor, "N D"]:
        query = self.query.expand(len(tokens_NMD), 1, -1)
        return self.attention(query, tokens_NMD, padding_mask(is_pad_NM)).squeeze(1)


def make_pool(name: PoolName, width: int) -> nn.Module:
    """The pooling of the given name."""
    if name == "query":
        return QueryPool(width)
    return MeanPool() if name == "mean" else LastPool()


def masked_mean(values_NMD: Float[Tensor, "N M D"], is_pad_NM: Bool[Tensor, "N M"]) -> Float[Tensor, "N D"]:
    """The mean over M of what is no padding; 0 where everything is."""
    weight_NM1 = (~is_pad_NM).to(values_NMD.dtype).unsqueeze(-1)
    return (values_NMD * weight_NM1).sum(dim=1) / weight_NM1.sum(dim=1).clamp(min=1)
