"""Memory of training and of acting, by part, as a device with one process would see it.

Weights that train, their gradients, both moments of AdamW and the averaged weights are float32 whatever the precision
(vla/training/precision.py), so those parts are sums over parameters. What a forward and backward pass keeps is measured
on shapes (vla/planning/live.py), for a micro-batch that adds to gradients which are there already.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vla.models.policy import Batch, Policy
from vla.planning.batch import empty_batch, empty_observation
from vla.planning.live import LiveBytes
from vla.terms import PolicySpec
from vla.training.objective import weighted_error
from vla.training.precision import Precision, autocast

FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of parameters."""

    total: int
    trained: int
    by_part: Mapping[str, tuple[int, int]]
    """First level of a weight's name -> all of the part, and those of it that train."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes on one device, by part."""

    weights: int
    gradients: int
    moments: int
    average: int
    fixed: int
    """What the passes take whatever the micro-batch: copies of weights in the precision of the forward pass, which
    autocast keeps until it is over, and the largest gradient before it is added to the others."""
    activations: int
    """What they take in proportion to the micro-batch, at their worst moment."""
    update: int
    """What the optimizer's update takes for a moment, when activations are gone."""

    @property
    def total(self) -> int:
        """At the worst moment: within the passes or within the update."""
        return self.lasting + max(self.fixed + self.activations, self.update)

    @property
    def lasting(self) -> int:
        """What is there all the time."""
        return self.weights + self.gradients + self.moments + self.average


def count_parameters(policy: Policy[Any]) -> Parameters:
    """Of the policy, and of its modules of the first level."""
    by_part: dict[str, tuple[int, int]] = {}
    for name, value in policy.named_parameters():
        total, trained = by_part.get(part := name.partition(".")[0], (0, 0))
        by_part[part] = (total + value.numel(), trained + value.numel() * value.requires_grad)
    total, trained = (sum(counts) for counts in zip(*by_part.values(), strict=True))
    return Parameters(total, trained, by_part)


def training_memory(
    policy: Policy[Any], spec: PolicySpec, micro_batch: int, *, precision: Precision, fused: bool, averaged: bool
) -> TrainingMemory:
    """For micro-batches of the given size; the policy is as it trains, with activation checkpointing or without."""
    once, twice = (peak_of_passes(policy, empty_batch(spec, b), precision) for b in (micro_batch, 2 * micro_batch))
    trained = FLOAT32 * count_parameters(policy).trained
    return TrainingMemory(
        weights=_bytes_of(policy),
        gradients=trained,
        moments=2 * trained,
        average=trained if averaged else 0,
        fixed=2 * once - twice,
        activations=twice - once,
        # torch's updates of many tensors at once keep the roots of all second moments for a moment.
        update=0 if fused else trained,
    )


def largest_micro_batch(memory: TrainingMemory, micro_batch: int, *, room: float, peak: Callable[[int], int]) -> int:
    """The most samples of which the passes fit into `room` bytes with what is there all the time; 0 where not one does.

    `memory` is that of `micro_batch`, and `peak` measures the passes of another. A peak is the largest of several lines
    over the micro-batch, one for each moment, so between two measured ones it lies below the line through them.
    """
    passes = room - memory.lasting
    if memory.update > passes:
        return 0
    most = int(max(0.0, passes - memory.fixed) * micro_batch / memory.activations)
    if most > 2 * micro_batch and (reached := peak(most)) > passes:
        low = 2 * micro_batch
        start = memory.fixed + 2 * memory.activations
        most = low + int((passes - start) * (most - low) / (reached - start))
    while 0 < most < micro_batch and peak(most) > passes:
        most -= 1
    return most


def peak_of_passes(policy: Policy[Any], batch: Batch, precision: Precision) -> int:
    """Most bytes at once of a forward and backward pass, beside weights, gradients that are there, and the batch."""
    for value in policy.parameters():
        value.grad = torch.zeros_like(value) if value.requires_grad else None
    gradients = [value.grad for value in policy.parameters() if value.grad is not None]
    with LiveBytes([*_tensors(policy), *gradients, *_tensors_of(batch)]) as live:
        with autocast(precision, torch.device("cpu")):
            loss = weighted_error(policy(batch), batch)
        loss.backward()
    policy.zero_grad(set_to_none=True)
    return live.peak


def acting_memory(policy: Policy[Any], spec: PolicySpec) -> int:
    """Bytes of weights and of what is alive at once while a chunk for one robot is sampled, in float32."""
    obs, noise = empty_observation(spec, 1, steps=1), torch.empty(1, spec.action_horizon, spec.action_dim)
    memory = policy.initial_memory(1, torch.device("cpu"))
    with LiveBytes(_tensors(policy)) as live:
        policy.act(obs, memory, noise, num_steps=2)
    return _bytes_of(policy) + live.peak


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _tensors_of(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    batch.each(note)
    return found


def _bytes_of(module: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in _tensors(module))
