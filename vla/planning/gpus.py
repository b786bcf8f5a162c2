"""GPUs that a plan can be made for, by the names that people call them."""

from collections.abc import Mapping
from dataclasses import dataclass

from vla.errors import ConfigError
from vla.registry import did_you_mean
from vla.training.machine import NARROW_TFLOPS

GIB = 2**30
RESERVED = 1.5 * GIB
"""What the driver, kernels' workspaces and gaps between tensors take besides."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device."""

    name: str
    memory: float
    """Bytes as PyTorch sees them, which is less than the data sheet says."""
    tflops: float
    """Dense bfloat16 TFLOP/s by the data sheet."""

    @property
    def room(self) -> float:
        """Bytes for tensors."""
        return self.memory - RESERVED


GPUS: Mapping[str, Gpu] = {
    word: Gpu(name, gib * GIB, NARROW_TFLOPS[name])
    for word, name, gib in (
        ("h100", "H100", 79.1),
        ("h200", "H200", 139.7),
        ("b200", "B200", 178.3),
        ("a100", "A100", 79.1),
        ("a100-40gb", "A100", 39.4),
        ("l40s", "L40S", 44.3),
        ("rtx4090", "RTX 4090", 23.5),
    )
}


def find(word: str) -> Gpu:
    """Raises ConfigError with the names that there are."""
    if word not in GPUS:
        raise ConfigError(f"--gpu: expected one of {', '.join(GPUS)}, found {word!r}.{did_you_mean(word, list(GPUS))}")
    return GPUS[word]
