"""The training objective: a policy's element-wise errors, weighed and summed over the whole optimizer step."""

import torch

from vla.models.policy import Batch, FlowLoss


@torch.no_grad()
def sample_errors(loss: FlowLoss, batch: Batch) -> torch.Tensor:
    """[B]: the weighted error of each sample, which tells who is to blame when the loss is not finite."""
    return (loss.error_BPHA * batch.weight_BPHA).flatten(1).sum(1)


def weighted_error(loss: FlowLoss, batch: Batch) -> torch.Tensor:
    """This micro-batch's part of the step's loss: its weighted errors over the weight of the whole step."""
    error = (loss.error_BPHA * batch.weight_BPHA).sum() / batch.weight_total
    share = batch.weight_BPHA.sum() / batch.weight_total
    return error + share * sum(loss.auxiliary.values()) if loss.auxiliary else error
