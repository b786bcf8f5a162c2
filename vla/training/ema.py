"""Exponential moving average of a policy's weights, kept in float32 beside the policy."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Ema:
    """The averaged weights; the decay warms up so that early averages forget the random start."""

    def __init__(self, parameters: Mapping[str, Tensor], *, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone().float() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], *, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        latest = [parameters[name].float() for name in self.values]
        torch._foreach_lerp_(list(self.values.values()), latest, 1 - decay)
