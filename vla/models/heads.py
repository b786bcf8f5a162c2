"""Flow-matching heads over a short history: what the last W steps looked like, and the last one's tokens.

`read` runs once for a prediction, `forward` once for each flow step.
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from vla.models.action_expert import CrossAttentionExpert
from vla.models.attention import padding_mask, time_features
from vla.models.pooling import masked_mean
from vla.terms import PolicySpec

TIME_WIDTH, TIME_FEATURES = 16, 64
"""Numbers that the mlp head gets of each action's flow time, and sines and cosines that they are made of."""


@dataclass(frozen=True, slots=True)
class History:
    """What a policy has seen up to the step that it acts on, which comes last and is never padding."""

    steps_QWD: Float32[Tensor, "Q W D"]
    step_is_pad_QW: Bool[Tensor, "Q W"]
    tokens_QND: Float[Tensor, "Q N D"]
    """Of the last step."""
    token_is_pad_QN: Bool[Tensor, "Q N"]


@dataclass(frozen=True, slots=True)
class Context:
    """What a head attends to; the mlp head has one token."""

    tokens_QND: Float[Tensor, "Q N D"]
    mask: Float32[Tensor, "Q 1 1 N"] | None


class MlpHead(nn.Module):
    """The whole chunk by one MLP, from the pooled history, the last step, the noisy actions and their flow times."""

    def __init__(self, spec: PolicySpec, *, width: int, hidden_dims: tuple[int, ...], dropout: float) -> None:
        """`width` is D of the history."""
        super().__init__()
        horizon, actions = spec.action_horizon, spec.action_dim
        self.embed_age = nn.Parameter(0.02 * torch.randn(spec.window_steps, width))
        # Not linear: a mean of sums could not tell which step was the earlier one.
        self.mix = nn.Sequential(nn.Linear(width, width), nn.SiLU())
        self.embed_time = nn.Linear(TIME_FEATURES, TIME_WIDTH)
        before = [2 * width + horizon * (actions + TIME_WIDTH), *hidden_dims]
        hidden = [
            layer
            for inputs, outputs in zip(before, hidden_dims, strict=False)
            for layer in (nn.Linear(inputs, outputs), nn.GELU(), nn.Dropout(dropout))
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(before[-1], horizon * actions))

    def read(self, history: History) -> Context:
        mixed_QWD = self.mix(history.steps_QWD + self.embed_age)
        pooled = masked_mean(mixed_QWD, history.step_is_pad_QW)
        return Context(torch.cat([pooled, history.steps_QWD[:, -1]], dim=-1).unsqueeze(1), None)

    def forward(
        self, noisy_actions_QHA: Float[Tensor, "Q H A"], time_QH: Float[Tensor, "Q H"], context: Context
    ) -> Float32[Tensor, "Q H A"]:
        """Velocity d(noisy actions)/d(time)."""
        time = self.embed_time(time_features(time_QH, TIME_FEATURES))
        x = torch.cat(
            [context.tokens_QND, noisy_actions_QHA.flatten(1, 2).unsqueeze(1), time.flatten(1, 2).unsqueeze(1)], dim=-1
        )
        last = cast("nn.Linear", self.layers[-1])
        x = self.layers[:-1](x)
        # A velocity narrower than float32 loses small errors.
        with torch.autocast(x.device.type, enabled=False):
            return last(x.to(last.weight.dtype)).float().view_as(noisy_actions_QHA)

    def action_output(self) -> None:
        """None: a row of the last layer belongs to an action at one place of the chunk."""


class TransformerHead(nn.Module):
    """Action tokens that cross-attend to the steps of the history and to the last step's tokens."""

    def __init__(self, spec: PolicySpec, *, width_in: int, width: int, heads: int, layers: int, dropout: float) -> None:
        """`width_in` is D of the history."""
        super().__init__()
        self.embed_age = nn.Parameter(0.02 * torch.randn(spec.window_steps, width_in))
        self.project = nn.Linear(width_in, width)
        self.dropout = nn.Dropout(dropout)
        self.expert = CrossAttentionExpert(
            action_dim=spec.action_dim, action_horizon=spec.action_horizon, width=width, heads=heads, layers=layers
        )

    def read(self, history: History) -> Context:
        seen = torch.cat([history.steps_QWD + self.embed_age, history.tokens_QND], dim=1)
        is_pad = torch.cat([history.step_is_pad_QW, history.token_is_pad_QN], dim=1)
        return Context(self.dropout(self.project(seen)), padding_mask(is_pad))

    def forward(
        self, noisy_actions_QHA: Float[Tensor, "Q H A"], time_QH: Float[Tensor, "Q H"], context: Context
    ) -> Float32[Tensor, "Q H A"]:
        """Velocity d(noisy actions)/d(time)."""
        return self.expert(noisy_actions_QHA, time_QH, context.tokens_QND, context.mask)

    def action_output(self) -> nn.Linear:
        """The layer with a row of weights per action dimension."""
        return self.expert.to_velocity
