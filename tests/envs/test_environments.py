"""Every file in vla/envs keeps the contract of vla.envs."""

import numpy as np
import pytest

from vla import registry
from vla.envs import Environment, EnvironmentSettings
from vla.errors import ConfigError
from vla.terms import Sensing

SETTINGS = EnvironmentSettings(image_size=(48, 64), max_steps=20)
WITH_TASKS = [name for name in registry.names("envs") if registry.find("envs", name).tasks()]


@pytest.fixture(params=WITH_TASKS, scope="module")
def environment(request: pytest.FixtureRequest) -> Environment:
    module = registry.find("envs", request.param)
    made: Environment = module.make(module.tasks()[0], SETTINGS)
    return made


def everything(sensed: Sensing) -> bytes:
    return b"".join([sensed.state_S.tobytes(), *(image.tobytes() for image in sensed.images.values())])


def test_sensing_has_the_declared_views_sizes_and_types(environment: Environment) -> None:
    environment.reset(0)
    sensed = environment.sense()
    assert tuple(sensed.images) == environment.views
    for image in sensed.images.values():
        assert image.shape == (48, 64, 3)
        assert image.dtype == np.uint8
    assert sensed.state_S.shape == (environment.state_dim,)
    assert sensed.state_S.dtype == np.float32
    assert sensed.time == 0.0


def test_time_advances_with_every_step(environment: Environment) -> None:
    environment.reset(0)
    times = [environment.sense().time]
    for _ in range(2):
        environment.step(np.zeros(environment.action_dim, dtype=np.float32))
        times.append(environment.sense().time)
    assert 0 == times[0] < times[1] < times[2]


def test_equal_seeds_give_bit_equal_episodes_whatever_ran_before(environment: Environment) -> None:
    def play(seed: int) -> list[bytes]:
        rng = np.random.default_rng(0)
        environment.reset(seed)
        seen = [everything(environment.sense())]
        for _ in range(4):
            action = rng.uniform(-1, 1, environment.action_dim).astype(np.float32)
            environment.step(action)
            seen.append(everything(environment.sense()))
        return seen

    first = play(7)
    other = play(8)
    assert play(7) == first
    assert other != first


def test_the_picture_for_people_is_larger_than_the_views(environment: Environment) -> None:
    environment.reset(0)
    picture = environment.picture()
    assert picture.dtype == np.uint8
    assert picture.shape[0] >= 128
    assert picture.shape[2] == 3


def test_an_unknown_task_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'drawer-open-v3'"):
        registry.find("envs", "metaworld").make("draw-open-v3", SETTINGS)


def test_no_environment_offers_no_tasks_and_refuses_to_build_one() -> None:
    module = registry.find("envs", "none")
    assert module.tasks() == []
    with pytest.raises(ConfigError, match=r"rollout\.environment"):
        module.make("drawer-open-v3", SETTINGS)


def test_more_steps_than_meta_world_allows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.settings\.max_steps: expected at most 250"):
        registry.find("envs", "metaworld").make("drawer-open-v3", SETTINGS.model_copy(update={"max_steps": 251}))
