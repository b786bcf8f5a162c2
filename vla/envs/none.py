"""No simulator: the choice for recordings of a real robot. The rollout stage then writes a marker."""

from vla.envs import Environment, EnvironmentSettings
from vla.errors import ConfigError


def tasks() -> list[str]:
    """None."""
    return []


def make(task: str, settings: EnvironmentSettings) -> Environment:
    """Refuse: there is nothing to build."""
    del settings
    raise ConfigError(
        f"rollout.environment: expected an environment for the task {task!r}, found 'none'. "
        f"Set rollout.environment to one that has it."
    )
