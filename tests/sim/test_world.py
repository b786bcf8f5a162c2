"""Worlds: seeds, pace, instructions, and which goals are shown."""

import mujoco
import numpy as np
import pytest

from vla.errors import ConfigError, DataError
from vla.sim import world
from vla.sim.world import World

IDLE = np.zeros(4, dtype=np.float32)


def make(task: str) -> World:
    return World(task, image_size=(16, 16))


def test_the_four_default_tasks_are_asked_for_in_plain_words() -> None:
    assert [world.instruction(task) for task in world.INSTRUCTIONS] == [
        "open the drawer",
        "press the button from the top",
        "open the faucet",
        "close the faucet",
    ]


def test_other_tasks_are_asked_for_by_their_names() -> None:
    assert world.instruction("window-close-v3") == "close the window"
    assert world.instruction("pick-place-wall-v3") == "pick place wall"


def test_no_two_tasks_share_an_instruction() -> None:
    assert len({world.instruction(task) for task in world.tasks()}) == len(world.tasks()) == 50


def test_a_seed_decides_the_layout_whatever_ran_before() -> None:
    first, second = make("faucet-open-v3"), make("faucet-open-v3")
    second.reset(99)
    for _ in range(5):
        second.step(np.ones(4, dtype=np.float32))
    np.random.seed(3)  # noqa: NPY002  # Meta-World would draw layouts from here
    for each in (first, second):
        each.reset(4)
        each.step(np.full(4, 0.5, dtype=np.float32))
    np.testing.assert_array_equal(first.observation, second.observation)
    np.testing.assert_array_equal(first.look("front").rgb, second.look("front").rgb)


def test_the_first_picture_shows_the_new_layout() -> None:
    """Meta-World moves the drawer without recomputing where its shapes are."""
    scene = World("drawer-open-v3", image_size=(48, 48))
    scene.reset(1)
    scene.reset(2)
    shown = scene.look("front").rgb
    mujoco.mj_forward(scene._env.model, scene._env.data)
    np.testing.assert_array_equal(shown, scene.look("front").rgb)


def test_the_state_is_the_hand_position_and_the_gripper_opening() -> None:
    scene = make("drawer-open-v3")
    scene.reset(0)
    hand = scene._env.data.body("hand").xpos
    np.testing.assert_allclose(scene.state[:3], hand, atol=1e-6)
    assert scene.state[3] == pytest.approx(1.0)
    for _ in range(20):
        scene.step(np.array([0, 0, 0, 1], dtype=np.float32))
    assert scene.state[3] < 0.9


def test_forty_steps_are_a_second() -> None:
    scene = make("drawer-open-v3")
    scene.reset(0)
    started = scene._env.data.time
    for _ in range(40):
        scene.step(IDLE)
    assert scene.time == 1.0
    assert scene._env.data.time - started == pytest.approx(1.0)


def test_a_goal_is_shown_where_one_task_owns_the_scene() -> None:
    scene = make("drawer-open-v3")
    scene.reset(0)
    assert len(scene._markers()) == 1


@pytest.mark.parametrize("task", ["faucet-open-v3", "faucet-close-v3"])
def test_no_goal_gives_away_which_of_two_tasks_is_meant(task: str) -> None:
    scene = make(task)
    scene.reset(0)
    assert scene._markers() == {}


@pytest.mark.parametrize("action", [np.array([0, np.nan, 0, 0]), np.zeros(7)])
def test_an_action_that_no_robot_can_execute_is_refused(action: np.ndarray) -> None:
    scene = make("drawer-open-v3")
    scene.reset(0)
    with pytest.raises(DataError, match="expected an action of 4 finite numbers"):
        scene.step(action.astype(np.float32))


def test_an_unknown_task_is_an_error() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'faucet-open-v3'"):
        make("faucet-opn-v3")
