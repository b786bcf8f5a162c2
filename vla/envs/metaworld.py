"""Meta-World tasks, in the very world that the demonstrations of `download.source: sim` are recorded in."""

import numpy as np
from jaxtyping import Float32, UInt8

from vla.envs import EnvironmentSettings
from vla.errors import ConfigError
from vla.sim import world
from vla.terms import Sensing


class MetaWorld:
    """One task; implements `vla.envs.Environment`."""

    action_dim = len(world.ACTION_NAMES)
    state_dim = len(world.STATE_NAMES)
    views = world.VIEWS

    def __init__(self, task: str, settings: EnvironmentSettings) -> None:
        self._world = world.World(task, image_size=settings.image_size)
        self.instruction = self._world.instruction

    def reset(self, seed: int) -> None:
        self._world.reset(seed)

    def step(self, action_A: Float32[np.ndarray, "A"]) -> bool:
        return self._world.step(action_A)

    def sense(self) -> Sensing:
        images = {view: self._world.look(view).rgb for view in self.views}
        return Sensing(images=images, state_S=self._world.state, time=self._world.time)

    def picture(self) -> UInt8[np.ndarray, "Y X 3"]:
        return self._world.picture()


def tasks() -> list[str]:
    """All tasks, for example `drawer-open-v3`."""
    return world.tasks()


def make(task: str, settings: EnvironmentSettings) -> MetaWorld:
    """Build one task's environment."""
    if settings.max_steps > world.MAX_STEPS:
        raise ConfigError(
            f"rollout.settings.max_steps: expected at most {world.MAX_STEPS}, after which Meta-World ends an episode, "
            f"found {settings.max_steps}. Lower it."
        )
    return MetaWorld(task, settings)
