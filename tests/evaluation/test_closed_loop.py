import numpy as np
import pytest
from bundles import a_bundle
from PIL import Image

from vla.evaluation.closed_loop import Trial, play
from vla.evaluation.film import Film
from vla.evaluation.runner import PolicyRunner
from vla.terms import Sensing


class Countdown:
    """An environment that succeeds after as many steps as its seed says, and records what it is asked."""

    instruction = "open the drawer"
    action_dim, state_dim, views = 2, 3, ("front", "wrist")

    def reset(self, seed: int) -> None:
        self.seed, self.actions, self.sensed_at = seed, [], []

    def step(self, action_A) -> bool:
        assert len(self.actions) < self.seed, "stepped after success"
        self.actions.append(action_A)
        return len(self.actions) == self.seed

    def sense(self) -> Sensing:
        self.sensed_at.append(len(self.actions))
        rng = np.random.default_rng([self.seed, len(self.actions)])
        images = {view: rng.integers(0, 256, (16, 32, 3), dtype=np.uint8) for view in self.views}
        return Sensing(images, rng.uniform(-1, 1, 3).astype(np.float32), len(self.actions) / 10)

    def picture(self):
        return np.full((20, 160, 3), 10 * len(self.actions), np.uint8)


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    bundle = a_bundle(tmp_path_factory.mktemp("bundle") / "policy")
    return PolicyRunner(bundle, execute_horizon=2, seed=0)


def trial(seed: int, *, filmed: bool = False) -> Trial:
    return Trial(f"task-{seed}", "open the drawer", seed, swapped=False, filmed=filmed)


def played(runner, *seeds: int, max_steps: int, films=None):
    environments = [Countdown() for _ in seeds]
    wave = tuple(trial(seed) for seed in seeds)
    return play(wave, environments, runner, max_steps=max_steps, films=films or {}), environments


def test_a_rollout_ends_at_success_or_when_time_is_up(runner):
    outcomes, _ = played(runner, 3, 9, 5, max_steps=5)
    assert [(outcome.success, outcome.steps) for outcome in outcomes] == [(True, 3), (False, 5), (True, 5)]


def test_the_environment_is_sensed_only_when_the_policy_replans(runner):
    _, environments = played(runner, 5, 4, max_steps=10)
    assert [environment.sensed_at for environment in environments] == [[0, 2, 4], [0, 2]]


def test_rollouts_side_by_side_get_the_actions_they_get_alone(runner):
    _, together = played(runner, 2, 5, 7, max_steps=6)
    for number, seed in enumerate((2, 5, 7)):
        _, alone = played(runner, seed, max_steps=6)
        np.testing.assert_allclose(together[number].actions, alone[0].actions, atol=1e-5)


def test_a_film_shows_start_and_end_and_is_a_small_gif_and_a_still(runner, tmp_path):
    film = Film("open the drawer", control_fps=20.0)  # a picture every second step
    outcomes, _ = played(runner, 5, max_steps=9, films={trial(5): film})
    film.save(tmp_path, "drawer", success=outcomes[0].success)
    with Image.open(tmp_path / "drawer.gif") as gif:
        assert gif.n_frames == 4  # before the steps 0, 2, 4, and after the last
        assert gif.info["duration"] == 100
        assert gif.size[0] == 160
    with Image.open(tmp_path / "drawer.png") as still:
        np.testing.assert_array_equal(np.asarray(still)[0, 0], [50, 50, 50])
    assert (tmp_path / "drawer.gif").stat().st_size < 100_000
