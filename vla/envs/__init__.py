"""Environments for closed-loop rollouts: one file each, with `tasks()` and `make(task, settings)`.

`none.py` is the choice for data without a simulator: the rollout stage then writes a marker.
"""

from typing import Annotated, Protocol

import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from vla.config import Config
from vla.terms import Sensing

Count = Annotated[int, Field(gt=0)]


class EnvironmentSettings(Config):
    """How an environment is shown to a policy (section `rollout.settings`)."""

    image_size: tuple[Count, Count]
    """Rows, columns of each rendered view."""
    max_steps: Count
    """Control steps after which a rollout has failed."""


class Environment(Protocol):
    """One task of a simulator."""

    instruction: str
    """The text that tells the policy what to do."""
    action_dim: int
    state_dim: int
    views: tuple[str, ...]

    def reset(self, seed: int) -> None:
        """A new episode; equal seeds give bit-equal episodes whatever ran before."""
        ...

    def step(self, action_A: Float32[np.ndarray, "A"]) -> bool:
        """One control step with a raw action; returns whether the task has succeeded."""
        ...

    def sense(self) -> Sensing:
        """What the robot senses now; apart from `step` because rendering costs most and replanning alone needs it."""
        ...

    def picture(self) -> UInt8[np.ndarray, "Y X 3"]:
        """The scene as a person would like to see it, for videos."""
        ...


class EnvironmentModule(Protocol):
    """What a module of this folder offers."""

    def tasks(self) -> list[str]:
        """Names of the tasks, empty when there is no simulator."""
        ...

    def make(self, task: str, settings: EnvironmentSettings) -> Environment:
        """Build one task's environment."""
        ...
