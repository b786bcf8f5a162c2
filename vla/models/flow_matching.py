"""Flow matching in one convention: time 1 is noise, time 0 is actions (as openpi and LeRobot's pi0).

    x_t = t * noise + (1 - t) * actions        target velocity = noise - actions

Lipman et al., arXiv:2210.02747; Liu et al., arXiv:2209.03003; the time law is pi0's, arXiv:2410.24164.
"""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float, Float32, Float64
from torch import Tensor

TIME_FLOOR = 0.001
"""Smallest flow time that is trained on; sampling ends at 0."""
Field = Callable[[Tensor, float], Tensor]
"""Velocity at a point and a flow time."""
SamplerName = Literal["euler", "midpoint", "heun"]


class Sampler(Protocol):
    """Integrates a field from noise (time 1) to actions (time 0) in equal steps, counted in integers."""

    def __call__(
        self, field: Field, noise_QHA: Float32[Tensor, "Q H A"], num_steps: int
    ) -> Float32[Tensor, "Q H A"]: ...


def interpolate(
    actions_QHA: Float[Tensor, "Q H A"], noise_QHA: Float[Tensor, "Q H A"], time_QH: Float[Tensor, "Q H"]
) -> Float[Tensor, "Q H A"]:
    """The point at `time` on the straight line from actions (0) to noise (1)."""
    time = time_QH.unsqueeze(-1)
    return time * noise_QHA + (1 - time) * actions_QHA


def target_velocity(actions_QHA: Float[Tensor, "Q H A"], noise_QHA: Float[Tensor, "Q H A"]) -> Float[Tensor, "Q H A"]:
    """d x_t / d t, constant along the line."""
    return noise_QHA - actions_QHA


def time_from_uniform(unit: Float64[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Beta(1.5, 1) on [0.001, 1] by inversion of its distribution function t^1.5; noisier times are likelier."""
    return ((1 - TIME_FLOOR) * unit ** (2 / 3) + TIME_FLOOR).astype(np.float32)


def time_grid(count: int) -> Float32[np.ndarray, " count"]:
    """Midpoints of `count` equally likely strata of the time law, for a validation loss without sampling error."""
    return time_from_uniform((np.arange(count) + 0.5) / count)


def euler(field: Field, noise_QHA: Float32[Tensor, "Q H A"], num_steps: int) -> Float32[Tensor, "Q H A"]:
    """Order 1: the velocity at the start of each step; one evaluation a step."""
    current = noise_QHA
    for step in range(num_steps, 0, -1):
        current = current - field(current, step / num_steps) / num_steps
    return current


def midpoint(field: Field, noise_QHA: Float32[Tensor, "Q H A"], num_steps: int) -> Float32[Tensor, "Q H A"]:
    """Order 2: the velocity half a step ahead; two evaluations a step."""
    current = noise_QHA
    for step in range(num_steps, 0, -1):
        middle = current - field(current, step / num_steps) / (2 * num_steps)
        current = current - field(middle, (step - 0.5) / num_steps) / num_steps
    return current


def heun(field: Field, noise_QHA: Float32[Tensor, "Q H A"], num_steps: int) -> Float32[Tensor, "Q H A"]:
    """Order 2: the mean of the velocities at both ends of a step; two evaluations a step, the last one at time 0."""
    current = noise_QHA
    for step in range(num_steps, 0, -1):
        start = field(current, step / num_steps)
        end = field(current - start / num_steps, (step - 1) / num_steps)
        current = current - (start + end) / (2 * num_steps)
    return current


SAMPLERS: Mapping[SamplerName, Sampler] = {"euler": euler, "midpoint": midpoint, "heun": heun}
EVALUATIONS: Mapping[SamplerName, int] = {"euler": 1, "midpoint": 2, "heun": 2}
"""Evaluations of the field in a step, which are what sampling costs."""
