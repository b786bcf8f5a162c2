import dataclasses

import numpy as np
import pytest
import torch
from bundles import a_bundle

from vla import keyed
from vla.errors import ConfigError
from vla.evaluation.runner import PolicyRunner
from vla.models import inference
from vla.terms import Sensing


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return a_bundle(tmp_path_factory.mktemp("bundle") / "policy")


def sensing(seed: int) -> Sensing:
    rng = np.random.default_rng(seed)
    images = {view: rng.integers(0, 256, (16, 32, 3), dtype=np.uint8) for view in ("front", "wrist")}
    return Sensing(images, rng.uniform(-1, 1, 3).astype(np.float32), 0.0)


def chunk(bundle, sensed, *, seed, episode, replanned):
    noise = keyed.normal(seed, "rollout", keyed.uid(*episode), replanned, shape=(4, 2))[None]
    return inference.predict(bundle, [sensed], ["open the drawer"], noise_BHA=noise)[0][0]


def test_it_executes_the_first_actions_of_each_chunk_and_then_replans(bundle):
    runner = PolicyRunner(bundle, execute_horizon=3, seed=5)
    runner.reset(["open the drawer"], [("drawer", 17)])
    executed = []
    for replanned in range(2):
        runner.sense([sensing(replanned)])
        while not runner.must_sense:
            executed.append(runner.next_actions()[0])
    expected = [chunk(bundle, sensing(i), seed=5, episode=("drawer", 17), replanned=i)[:3] for i in range(2)]
    np.testing.assert_array_equal(np.stack(executed), np.concatenate(expected))


def test_episodes_side_by_side_act_as_if_alone(bundle):
    together, alone = (PolicyRunner(bundle, execute_horizon=4, seed=0) for _ in range(2))
    together.reset(["open the drawer", "press the button"], [("drawer", 1), ("button", 2)])
    together.sense([sensing(1), sensing(2)])
    alone.reset(["press the button"], [("button", 2)])
    alone.sense([sensing(2)])
    np.testing.assert_allclose(together.next_actions()[1:], alone.next_actions(), atol=1e-5)


def test_dropping_an_episode_leaves_the_others_as_they_were(bundle):
    whole, cut = (PolicyRunner(bundle, execute_horizon=4, seed=0) for _ in range(2))
    for runner in (whole, cut):
        runner.reset(["open the drawer"] * 3, [("drawer", 1), ("drawer", 2), ("drawer", 3)])
        runner.sense([sensing(1), sensing(2), sensing(3)])
        runner.next_actions()
    cut.keep([0, 2])
    np.testing.assert_array_equal(cut.next_actions(), whole.next_actions()[[0, 2]])


def test_a_reset_forgets_queue_and_replanning_index(bundle):
    runner = PolicyRunner(bundle, execute_horizon=4, seed=0)
    actions = []
    for _ in range(2):
        runner.reset(["open the drawer"], [("drawer", 1)])
        assert runner.must_sense
        runner.sense([sensing(1)])
        actions.append(runner.next_actions())
    np.testing.assert_array_equal(*actions)


def test_task_and_seed_give_an_episode_its_noise(bundle):
    runner = PolicyRunner(bundle, execute_horizon=4, seed=0)
    runner.reset(["open the drawer"] * 4, [("drawer", 1), ("drawer", 1), ("drawer", 2), ("button", 1)])
    runner.sense([sensing(1)] * 4)
    first, same, other_seed, other_task = runner.next_actions()
    np.testing.assert_allclose(same, first, atol=1e-5)
    assert not np.allclose(other_seed, first, atol=1e-3)
    assert not np.allclose(other_task, first, atol=1e-3)


class Counter(torch.nn.Module):
    """A policy that remembers how often it was asked: its actions are the count, per episode."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))

    def initial_memory(self, batch_size, device):
        return {"asked": torch.zeros(batch_size)}

    def act(self, obs, memory, noise_BHA, num_steps):
        asked = memory["asked"] + obs.state_BTS[:, -1, 0]
        return asked[:, None, None].expand(noise_BHA.shape), {"asked": asked}


def test_memory_is_carried_per_episode_and_dropped_with_it(bundle):
    counting = dataclasses.replace(bundle, policy=Counter())
    runner = PolicyRunner(counting, execute_horizon=1, seed=0)
    runner.reset(["open the drawer"] * 2, [("drawer", 1), ("drawer", 2)])
    state = np.full(3, 0.45, np.float32)  # 0.5 after quantile normalisation by 0.9
    small, large = (Sensing(sensing(0).images, factor * state, 0.0) for factor in (1, 2))
    runner.sense([small, large])
    np.testing.assert_allclose(runner.next_actions()[:, 0], [0.5, 1.0], atol=1e-6)
    runner.keep([1])
    runner.sense([small])
    np.testing.assert_allclose(runner.next_actions()[:, 0], [1.5], atol=1e-6)
    runner.reset(["open the drawer"], [("drawer", 1)])
    runner.sense([small])
    np.testing.assert_allclose(runner.next_actions()[:, 0], [0.5], atol=1e-6)


@pytest.mark.parametrize("horizon", [0, 5])
def test_an_execute_horizon_beyond_the_chunk_is_refused(bundle, horizon):
    with pytest.raises(ConfigError, match="expected 1 to 4"):
        PolicyRunner(bundle, execute_horizon=horizon, seed=0)


def test_a_policy_that_watches_a_window_replans_at_its_stride(bundle):
    watching = dataclasses.replace(bundle, spec=dataclasses.replace(bundle.spec, window_steps=3, step_stride=2))
    PolicyRunner(watching, execute_horizon=2, seed=0)
    with pytest.raises(ConfigError, match="expected 2, the steps between two observations"):
        PolicyRunner(watching, execute_horizon=4, seed=0)
