"""The training objective: a policy's element-wise errors, weighed and summed over the whole optimizer step."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from vla.models.flow_matching import time_from_uniform
from vla.models.policy import Batch, FlowLoss

TIME_BINS = 4
"""Ranges of flow time that the log shows apart, equally likely in training; the first is nearest to the actions."""
_BOUNDARIES = time_from_uniform(np.arange(1, TIME_BINS) / TIME_BINS).tolist()


class Passed(NamedTuple):
    """What one rank's micro-batches of a step have given, on the device."""

    share: Float64[Tensor, ""]
    """This rank's part of the step's loss."""
    error_B: Tensor
    """Weighted error of each sample."""
    by_time_2K: Float64[Tensor, "2 K"]
    """Weighted errors and weights in each range of flow time."""


@torch.no_grad()
def errors_by_time(loss: FlowLoss, batch: Batch) -> Float64[Tensor, "2 K"]:
    """Sums of weighted errors and of weights in each range of flow time."""
    # Compared with numbers instead of a tensor of them, whose copy to a GPU would have to be waited for.
    bin_BPH = torch.stack([batch.time_BPH > boundary for boundary in _BOUNDARIES]).sum(0)
    sums = torch.stack([(loss.error_BPHA * batch.weight_BPHA).sum(-1), batch.weight_BPHA.sum(-1)]).double()
    return torch.stack([(sums * (bin_BPH == number)).flatten(1).sum(1) for number in range(TIME_BINS)], dim=1)


@torch.no_grad()
def sample_errors(loss: FlowLoss, batch: Batch) -> torch.Tensor:
    """[B]: the weighted error of each sample, which tells who is to blame when the loss is not finite."""
    return (loss.error_BPHA * batch.weight_BPHA).flatten(1).sum(1)


def weighted_error(loss: FlowLoss, batch: Batch) -> torch.Tensor:
    """This micro-batch's part of the step's loss: its weighted errors over the weight of the whole step."""
    error = (loss.error_BPHA * batch.weight_BPHA).sum() / batch.weight_total
    share = batch.weight_BPHA.sum() / batch.weight_total
    return error + share * sum(loss.auxiliary.values()) if loss.auxiliary else error
