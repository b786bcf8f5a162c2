"""How a policy does on held-out samples while it trains, comparable between runs.

Every rank takes a part of the samples. Times and noise are fixed by what a sample is, so the result depends on no batch
size, worker count or step.
"""

import math
from dataclasses import dataclass

import torch
from torch.func import functional_call

from vla.data.loader import ValidationOrder
from vla.errors import DataError
from vla.training.distributed import Context
from vla.training.objective import weighted_error
from vla.training.state import TrainState, weights_for_bundle


@dataclass(frozen=True, slots=True)
class Validation:
    """The held-out samples and who measures them."""

    order: ValidationOrder
    context: Context
    micro_batch: int

    @torch.no_grad()
    def measure(self, state: TrainState) -> dict[str, float]:
        """The flow loss of the averaged weights."""
        loss = self.context.sum([self._share(state)])[0]
        if not math.isfinite(loss):
            raise DataError(
                f"train: expected a finite validation loss, found {loss} at step {state.step}. Lower "
                f"train.optimizer.lr, or look for outliers in the report of the validate stage."
            )
        return {"validation_loss": loss}

    def _share(self, state: TrainState) -> float:
        order, policy, size = self.order, state.policy, self.micro_batch
        weights = weights_for_bundle(state)
        policy.eval()
        loss = 0.0
        for number, first in enumerate(range(0, len(order), size)):
            if number % self.context.world_size == self.context.rank:
                batch = order.batch(first, min(first + size, len(order))).to(self.context.device)
                loss += weighted_error(functional_call(policy, weights, (batch,)), batch).item()
        policy.train()
        return loss
