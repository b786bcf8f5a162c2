"""torch.compile of a policy: faster where kernels are short, after minutes of compiling, and rounded differently."""

import os
import shutil
from typing import Any

import torch
from torch import nn

from vla.errors import LaunchError
from vla.models.policy import Policy


def compiled(policy: Policy[Any], device: torch.device) -> nn.Module:
    """A module that computes what `policy` does, over the same weights; the policy itself stays as it is.

    So names of weights stay too, and validation and the bundle compute as inference does. On several ranks this is what
    DDP wraps: gradients are exchanged when all of them are there, and whatever the policy consists of can be compiled.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise LaunchError(
            f"train.compile: expected a C++ compiler, which the CPU needs, found no {compiler}. Install one "
            f"(on Debian and Ubuntu: apt install g++), name it in CXX, or set train.compile to false."
        )
    module: Any = torch.compile(policy)
    return module
