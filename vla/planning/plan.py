"""What a training of a `params.yaml` would take, before anything is downloaded or allocated.

Memory is counted on shapes (vla/planning/memory.py). Speed is an expectation: operations counted on shapes too, at a
share of the data sheet's peak that is assumed, and so printed beside the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vla.execution import ExecutionConfig
from vla.models import bundle
from vla.models.policy import Interface, Policy, build_policy
from vla.planning.batch import empty_batch
from vla.planning.gpus import Gpu
from vla.planning.live import shapes_alone
from vla.planning.memory import (
    Parameters,
    TrainingMemory,
    acting_memory,
    count_parameters,
    largest_micro_batch,
    peak_of_passes,
    training_memory,
)
from vla.terms import PolicySpec
from vla.training.job import TrainConfig
from vla.training.machine import count_flops
from vla.training.recompute import recompute_blocks

UTILISATION = 0.4
"""Share of the peak that the counted operations are assumed to run at."""
RECOMPUTED = 4 / 3
"""Operations with activation checkpointing over those without: a third forward, and that once more."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer of `vla plan`, for one GPU and a number of workers that have one each."""

    gpu: Gpu
    workers: int
    micro_batch: int
    """Samples at a time: `execution.micro_batch`, or a worker's whole share of the batch where that is smaller."""
    parameters: Parameters
    training: TrainingMemory
    largest_micro_batch: int
    """The most samples that fit; 0 where not one does."""
    acting: int
    """Bytes while a chunk for one robot is sampled."""
    flops_per_sample: float
    """Forward and backward pass, none of them twice."""
    samples_per_s: float | None
    """All workers together; None at float32, of which no peak is known."""
    hours: float | None
    """For `train.steps`; None as well where the training is counted in epochs."""

    @property
    def fits(self) -> bool:
        """Whether the planned micro-batch does."""
        return self.training.total <= self.gpu.room


def make_plan(
    policy_section: Mapping[str, Any],
    interface: Interface,
    train: TrainConfig,
    execution: ExecutionConfig,
    *,
    gpu: Gpu,
    utilisation: float = UTILISATION,
) -> Plan:
    """Plan a training of these sections; `execution.workers` divides `train.batch_size`."""
    policy, spec = shape_of_policy(policy_section, interface)
    micro_batch = min(execution.micro_batch, train.batch_size // execution.workers)
    with shapes_alone():
        flops = count_flops(policy, empty_batch(spec, 1), policy)
        acting = acting_memory(policy.eval(), spec)
        policy.train()
        if execution.activation_checkpointing:
            recompute_blocks(policy)
        memory = training_memory(
            policy,
            spec,
            micro_batch,
            precision=train.precision,
            fused=train.optimizer.fused,
            averaged=train.ema > 0,
        )
        most = largest_micro_batch(
            memory,
            micro_batch,
            room=gpu.room,
            peak=lambda count: peak_of_passes(policy, empty_batch(spec, count), train.precision),
        )
    speed = None
    if train.precision != "float32":
        work = flops * (RECOMPUTED if execution.activation_checkpointing else 1)
        speed = execution.workers * gpu.tflops * 1e12 * utilisation / work
    return Plan(
        gpu=gpu,
        workers=execution.workers,
        micro_batch=micro_batch,
        parameters=count_parameters(policy),
        training=memory,
        largest_micro_batch=most,
        acting=acting,
        flops_per_sample=flops,
        samples_per_s=speed,
        hours=train.steps * train.batch_size / speed / 3600 if train.steps and speed else None,
    )


def shape_of_policy(section: Mapping[str, Any], interface: Interface) -> tuple[Policy[Any], PolicySpec]:
    """The policy of a section without memory for its weights, to be run within `shapes_alone`."""
    module, cfg = bundle.parse_policy(section, where="params.yaml: policy")
    cfg = cfg.resolved()
    spec = module.make_spec(cfg, interface)
    # Initial values may depend on values, which shapes have none of; weights on `meta` are not initialised.
    with torch.device("meta"):
        policy, _ = build_policy(module, cfg, spec)
    with shapes_alone():
        return policy.to_empty(device="cpu").train(), spec
