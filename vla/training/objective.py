"""The training objective: a policy's element-wise errors, weighed and summed over the whole optimizer step."""

import torch

from vla.models.policy import Batch, FlowLoss


def weighted_error(loss: FlowLoss, batch: Batch) -> torch.Tensor:
    """This micro-batch's part of the step's loss: its weighted errors over the weight of the whole step."""
    error = (loss.error_BPHA * batch.weight_BPHA).sum() / batch.weight_total
    share = batch.weight_BPHA.sum() / batch.weight_total
    return error + share * sum(loss.auxiliary.values()) if loss.auxiliary else error
