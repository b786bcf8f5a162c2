"""Exponential moving average of a policy's weights, kept in float32 beside the policy."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Ema:
    """The averaged weights; the decay warms up so that early averages forget the random start.

    With a decay of 0 there are none: the weights are their own average, and a copy would only take room.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, decay: float) -> None:
        self.decay = decay
        averaged = parameters.items() if decay else ()
        self.values = {name: value.detach().clone().float() for name, value in averaged}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], *, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 1."""
        if not self.values:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        latest = [parameters[name].float() for name in self.values]
        torch._foreach_lerp_(list(self.values.values()), latest, 1 - decay)
