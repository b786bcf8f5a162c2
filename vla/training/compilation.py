"""torch.compile of a policy: faster where kernels are short, after minutes of compiling, and rounded differently."""

from typing import Any

import torch
from torch import nn

from vla.models.compiled import require_compiler
from vla.models.policy import Policy


def compiled(policy: Policy[Any], device: torch.device) -> nn.Module:
    """A module that computes what `policy` does, over the same weights; the policy itself stays as it is.

    So names of weights stay too, and validation and the bundle compute as inference does. On several ranks this is what
    DDP wraps: gradients are exchanged when all of them are there, and whatever the policy consists of can be compiled.
    """
    require_compiler(device, setting="train.compile")
    module: Any = torch.compile(policy)
    return module
