"""torch.compile of a policy that acts: `encode` once and `velocity` in every sampling step, as kernels of their own.

Shapes are static: one robot, the policy's windows. On GPUs both run as CUDA graphs, which is where most of the time
goes for one robot: hundreds of short kernels wait to be launched. Results differ from the eager ones by rounding.
"""

import os
import shutil
from dataclasses import replace
from typing import Any

import torch

from vla.errors import LaunchError
from vla.models.policy import Encoded, Memory, Observation, Policy


def compile_acting(policy: Policy[Any], *, setting: str) -> None:
    """Make `policy.act` run compiled kernels, made at the first call, which takes from seconds to minutes.

    The policy's weights and their names stay as they are; `setting` is what the user turned on, for the message.
    """
    device = next(policy.parameters()).device
    require_compiler(device, setting=setting)
    mode = "reduce-overhead" if device.type == "cuda" else None
    encode: Any = torch.compile(policy.encode, dynamic=False, mode=mode)
    velocity: Any = torch.compile(policy.velocity, dynamic=False, mode=mode)

    def encode_anew(obs: Observation, memory: Memory) -> Encoded[Any]:
        # What the graphs of the last chunk hold may be written over from here on.
        torch.compiler.cudagraph_mark_step_begin()
        encoded = encode(obs, memory)
        return replace(encoded, memory={name: value.clone() for name, value in encoded.memory.items()})

    # Attributes of the instance, so that neither the module tree nor a name in it changes.
    policy.__dict__.update(encode=encode_anew, velocity=velocity)


def require_compiler(device: torch.device, *, setting: str) -> None:
    """Raise LaunchError on a CPU without a C++ compiler, which torch.compile needs there."""
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise LaunchError(
            f"{setting}: expected a C++ compiler, which the CPU needs, found no {compiler}. Install one "
            f"(on Debian and Ubuntu: apt install g++), name it in CXX, or turn {setting} off."
        )
