"""How a policy does on held-out samples while it trains, comparable between runs.

Two measures: the flow loss, smooth and cheap, and the error of the actions that the policy samples, which is what a
robot gets. Every rank takes a part of the samples. Times and noise are fixed by what a sample is and the sums are in
float64, so the result depends on no batch size, worker count or step, and no generator's state is read or changed. The
arithmetic is float32 at any `train.precision`: the bundle's, so that trainings of different precision compare.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.func import functional_call

from vla.data.held_out import ActionOrder, ValidationOrder
from vla.errors import DataError
from vla.models.policy import Observation, Policy
from vla.training.distributed import Context
from vla.training.state import TrainState, weights_for_bundle


@dataclass(frozen=True, slots=True)
class Validation:
    """The held-out samples and who measures them."""

    scored: ValidationOrder
    """For the flow loss."""
    sampled: ActionOrder | None
    """For the error of sampled actions."""
    context: Context
    micro_batch: int

    @torch.no_grad()
    def measure(self, state: TrainState) -> dict[str, float]:
        """What the averaged weights give, equal on all ranks but for the seconds that it took, `validation_s`.

        validation_loss: the flow loss alone, since auxiliary losses are means over a batch and so depend on its size.
        validation_error: the mean absolute error of sampled actions in units of the recorded actions' standard
        deviation, which is the `mae_normalised` of evaluation.json. Raises DataError where one is not finite.
        """
        started, policy, weights = time.perf_counter(), state.policy, weights_for_bundle(state)
        policy.eval()
        found = {"validation_loss": self._loss(policy, weights)}
        if self.sampled is not None:
            found["validation_error"] = self._error(policy, weights, self.sampled)
        policy.train()
        for name, value in found.items():
            if not math.isfinite(value):
                raise DataError(
                    f"train: expected a finite {name}, found {value} at step {state.step}. Lower "
                    f"train.optimizer.lr, or look for outliers in the report of the validate stage."
                )
        return {**found, "validation_s": time.perf_counter() - started}

    def _loss(self, policy: Policy[Any], weights: Mapping[str, Tensor]) -> float:
        order, device = self.scored, self.context.device
        total = torch.zeros((), dtype=torch.float64, device=device)
        for first, last in self._own(len(order)):
            batch = order.batch(first, last).to(device)
            error_BPHA = functional_call(policy, dict(weights), (batch,)).error_BPHA
            total += (error_BPHA.double() * batch.weight_BPHA).sum()
        return self.context.sum([float(total)])[0] / order.weight_total

    def _error(self, policy: Policy[Any], weights: Mapping[str, Tensor], order: ActionOrder) -> float:
        device = self.context.device
        acting, own = _Acting(policy, order.num_steps), {f"policy.{name}": value for name, value in weights.items()}
        absolute = weight = 0.0
        for first, last in self._own(len(order)):
            obs, noise_BHA = order.batch(first, last)
            chunks_BHA = functional_call(acting, own, (obs.to(device), noise_BHA.to(device)))
            sums = order.errors(first, last, chunks_BHA.cpu().numpy())
            absolute, weight = absolute + float(sums.absolute_HA.sum()), weight + float(sums.weight_HA.sum())
        absolute, weight = self.context.sum([absolute, weight])
        return absolute / weight

    def _own(self, count: int) -> Iterator[tuple[int, int]]:
        """The micro-batches of `count` places that are this rank's."""
        step = self.micro_batch * self.context.world_size
        for first in range(self.micro_batch * self.context.rank, count, step):
            yield first, min(first + self.micro_batch, count)


class _Acting(nn.Module):
    """A policy whose forward samples actions, as at the start of an episode: `functional_call` runs nothing else."""

    def __init__(self, policy: Policy[Any], num_steps: int) -> None:
        super().__init__()
        self.policy, self.num_steps = policy, num_steps

    def forward(self, obs: Observation, noise_BHA: Float32[Tensor, "B H A"]) -> Float32[Tensor, "B H A"]:
        memory = self.policy.initial_memory(len(noise_BHA), noise_BHA.device)
        return self.policy.act(obs, memory, noise_BHA, self.num_steps)[0]
