"""Flow matching as other projects write it, and the way to and from our convention (vla/models/flow_matching.py).

    project                                   time 0    target            time law, in that project's time
    ours, openpi, LeRobot's pi0               actions   noise - actions   0.999 b + 0.001      b ~ Beta(1.5, 1)
    pi0 (arXiv:2410.24164)                    noise     actions - noise   0.999 (1 - b)
    GR00T N1 (arXiv:2503.14734)               noise     actions - noise   (0.999 - b) / 0.999
    torchcfm, Lipman et al. (arXiv:2210.02747) noise    actions - noise   u ~ Uniform(0, 1)

All of them draw the same straight line, so only two things differ: the direction of time, which turns the sign of the
velocity, and how often each time is trained on. A mistake in either still trains, to a falling loss, and shows in the
sampled actions alone.
"""

from typing import TypeVar

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from vla.models.flow_matching import Field

SCALE = 0.999
"""Largest time of pi0's paper, which leaves out the last thousandth next to the actions."""
Time = TypeVar("Time", float, Tensor, Float64[np.ndarray, "..."])


def reverse_time(time: Time) -> Time:
    """The same point of the line where time runs the other way; its own inverse."""
    return 1 - time


def reverse_velocity(velocity_QHA: Tensor) -> Tensor:
    """The same motion where time runs the other way; its own inverse."""
    return -velocity_QHA


def reverse_field(field: Field) -> Field:
    """A network of one direction of time as one of the other; its own inverse."""

    def reversed_field(point: Tensor, time: float) -> Tensor:
        return reverse_velocity(field(point, reverse_time(time)))

    return reversed_field


def pi0_time_from_uniform(unit: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Time law of pi0's paper by inversion, in its own time; reversed it is ours."""
    return SCALE * (1 - _beta(unit))


def groot_time_from_uniform(unit: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Time law of GR00T N1's code by inversion, in its own time: 0.15 % of it lies below 0, by up to 0.001."""
    return (SCALE - _beta(unit)) / SCALE


def _beta(unit: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Beta(1.5, 1) by inversion of its distribution function b^1.5."""
    return unit ** (2 / 3)
