"""What a training takes of its machine: memory, floating-point operations, and the share of what a GPU could do.

Operations are those of matrix products, convolutions and attention in one forward and backward pass, counted by
`torch.utils.flop_counter`; what activation checkpointing computes again is not among them. The share is "model FLOPs
utilisation" (Chowdhery et al., arXiv:2204.02311) against the peak of the data sheet without sparsity.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from vla.models.policy import Batch, FlowLoss, Policy
from vla.training.distributed import Context
from vla.training.precision import Precision
from vla.training.recompute import nothing_recomputed

NARROW_TFLOPS = {
    "A100": 312.0,
    "A800": 312.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H800": 989.0,
    "L40S": 362.0,
    "B200": 2250.0,
    "RTX 4090": 165.0,
}
"""Part of a GPU's name -> dense bfloat16 and float16 TFLOP/s by NVIDIA's data sheets; the first that fits counts."""
FUSED_ON_CPU: Mapping[str, Callable[..., int]] = {
    "_scaled_dot_product_flash_attention_for_cpu": lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    "_scaled_dot_product_flash_attention_for_cpu_backward": lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4]),
}
"""Kernels of attention of which torch counts nothing, as it does of the GPUs' -> operations for the shapes of query,
key and value, behind that of the gradient."""


@dataclass(slots=True)
class Machine:
    """One worker's device, and what a sample costs it."""

    context: Context
    precision: Precision
    flops_per_sample: float = 0.0
    """0 as long as they have not been counted."""

    def metrics(self, *, samples_per_s: float) -> dict[str, float]:
        """Largest memory of a rank since the last call, speed per device, utilisation; every rank calls it."""
        found = {"memory_bytes": self.context.largest(self._memory())}
        if self.flops_per_sample:
            speed = self.flops_per_sample * samples_per_s / self.context.world_size
            found["tflops_per_s"] = speed / 1e12
            peak = self.peak_flops()
            if peak is not None:
                found["mfu"] = speed / peak
        return found

    def peak_flops(self) -> float | None:
        """Of the device at the training's precision; None for float32, CPUs and GPUs that are not in the table."""
        if self.context.device.type != "cuda" or self.precision == "float32":
            return None
        name = torch.cuda.get_device_name(self.context.device)
        return next((1e12 * tflops for part, tflops in NARROW_TFLOPS.items() if part in name), None)

    def _memory(self) -> float:
        """Peak of the GPU's tensors since the last call; of a CPU the process's resident memory now."""
        device = self.context.device
        if device.type != "cuda":
            return float(psutil.Process().memory_info().rss)
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return float(peak)


def count_flops(policy: Policy[Any], batch: Batch, forward: Callable[[Batch], FlowLoss]) -> float:
    """Operations of one forward and backward pass of a batch, none of them twice; no gradient is left behind."""
    trainable = [value for value in policy.parameters() if value.requires_grad]
    formulas = {getattr(torch.ops.aten, kernel): formula for kernel, formula in FUSED_ON_CPU.items()}
    with nothing_recomputed(policy), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        torch.autograd.grad(forward(batch).error_BPHA.sum(), trainable, allow_unused=True)
    return float(counter.get_total_flops())
