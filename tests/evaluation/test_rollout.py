import json

import pytest
from bundles import a_bundle
from hypothesis import given
from hypothesis import strategies as st
from projects import REPOSITORY

from vla import config
from vla.envs import EnvironmentSettings
from vla.errors import ConfigError
from vla.evaluation import rollout
from vla.evaluation.closed_loop import Outcome
from vla.evaluation.metrics import wilson
from vla.evaluation.rollout import WAVE, RolloutConfig, check_tasks, plan, summary, swap
from vla.sim import world

SETTINGS = EnvironmentSettings(image_size=(16, 16), max_steps=9)


def section(**changes) -> RolloutConfig:
    values = {
        "environment": "metaworld", "tasks": ["a", "b"], "episodes": 3, "swapped_episodes": 1, "execute_horizon": 2,
        "settings": SETTINGS, "first_seed": 100, **changes,
    }  # fmt: skip
    return RolloutConfig.parse(values, where="rollout")


def test_neighbours_swap_their_instructions():
    assert swap(["drawer", "button", "open", "close"]) == {
        "drawer": "button", "button": "drawer", "open": "close", "close": "open",
    }  # fmt: skip


def test_the_last_three_of_an_odd_list_go_in_a_circle():
    assert swap(["a", "b", "c"]) == {"a": "b", "b": "c", "c": "a"}


@given(st.integers(2, 30))
def test_every_task_is_told_another_and_each_is_told_once(count):
    swapped = swap([str(task) for task in range(count)])
    assert all(task != other for task, other in swapped.items())
    assert sorted(swapped) == sorted(swapped.values())


def test_every_task_is_played_on_the_same_fixed_seeds_and_filmed_once():
    trials = [trial for wave in plan(section(), {"a": "open", "b": "close"}) for trial in wave]
    told = [trial for trial in trials if not trial.swapped]
    for task in ("a", "b"):
        own = [trial for trial in told if trial.task == task]
        assert [trial.seed for trial in own] == [100, 101, 102]
        assert [trial.filmed for trial in own] == [True, False, False]
    swapped = [(trial.task, trial.instruction, trial.seed, trial.filmed) for trial in trials if trial.swapped]
    assert swapped == [("a", "close", 100, False), ("b", "open", 100, False)]


def test_a_wave_has_each_task_once_and_a_bounded_number_of_them():
    names = [f"t{number}" for number in range(WAVE + 3)]
    waves = plan(section(tasks=names), {name: name for name in names})
    assert {len(wave) for wave in waves} == {WAVE, 3}
    assert all(len({trial.task for trial in wave}) == len(wave) for wave in waves)
    assert sum(map(len, waves)) == len(names) * (3 + 1)


def test_the_figures_are_counted_per_task_and_the_control_apart():
    trials = [trial for wave in plan(section(), {"a": "open", "b": "close"}) for trial in wave]
    outcomes = [
        Outcome(trial, success=trial.task == "a" and not trial.swapped and trial.seed != 101, steps=trial.seed - 98)
        for trial in trials
    ]
    result = summary(outcomes, {"a": "open", "b": "close"})
    assert result["success"] == pytest.approx(2 / 6)
    assert result["interval"] == list(wilson(2, 6))
    assert result["episodes"] == 6
    assert result["tasks"]["a"] == {
        "instruction": "open", "success": 2 / 3, "successes": 2, "episodes": 3,
        "interval": list(wilson(2, 3)), "mean_steps": 3.0,
    }  # fmt: skip
    assert result["tasks"]["b"]["successes"] == 0
    assert result["swapped"]["success"] == 0
    assert result["swapped"]["episodes"] == 2
    assert result["swapped"]["tasks"]["a"]["instruction"] == "close"


def test_without_rollouts_nothing_is_claimed():
    empty = {"success": None, "interval": None, "episodes": 0, "tasks": {}}
    assert summary([], {}) == {**empty, "swapped": empty}


def test_a_task_that_the_environment_lacks_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"found 'drawer-opn'.*Did you mean 'drawer-open'"):
        check_tasks(section(tasks=["drawer-opn", "b"]), ["drawer-open", "b"])


def test_a_task_named_twice_and_a_lone_task_with_a_control_are_refused():
    with pytest.raises(ConfigError, match="expected different tasks"):
        check_tasks(section(tasks=["a", "a"]), ["a"])
    with pytest.raises(ConfigError, match="expected 0 with one task"):
        check_tasks(section(tasks=["a"]), ["a"])
    check_tasks(section(tasks=["a"], swapped_episodes=0), ["a"])


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return a_bundle(
        tmp_path_factory.mktemp("bundle") / "policy",
        state_names=world.STATE_NAMES,
        action_names=world.ACTION_NAMES,
        fps=world.FPS,
    )


def run(policy, out, *, workers=1, **changes):
    cfg = rollout.Config.load(REPOSITORY / "params.yaml")
    tasks = ["faucet-open-v3", "faucet-close-v3"]
    settings = EnvironmentSettings(image_size=(16, 32), max_steps=6)
    cfg = cfg.model_copy(
        update={
            "rollout": section(**{"tasks": tasks, "episodes": 2, "settings": settings, **changes}),
            "execution": cfg.execution.model_copy(update={"rollout_workers": workers}),
        }
    )
    rollout.run(cfg, policy=policy.path, videos=out / "videos", metrics=out / "rollout.json")
    return json.loads((out / "rollout.json").read_text())


def test_figures_and_films_do_not_depend_on_the_number_of_processes(policy, tmp_path):
    one, two = (run(policy, tmp_path / str(workers), workers=workers) for workers in (1, 2))
    assert one == two
    assert one["status"] == "done"
    assert one["bundle_digest"] == policy.digest
    assert one["protocol"] == {
        "environment": "metaworld", "tasks": ["faucet-close-v3", "faucet-open-v3"], "episodes": 2, "first_seed": 100,
        "execute_horizon": 2, "settings": {"image_size": [16, 32], "max_steps": 6},
    }  # fmt: skip
    assert (one["episodes"], one["swapped"]["episodes"]) == (4, 2)
    assert one["swapped"]["tasks"]["faucet-open-v3"]["instruction"] == "close the faucet"
    names = sorted(item.name for item in (tmp_path / "1" / "videos").iterdir())
    assert names == [f"faucet-{what}-v3.{kind}" for what in ("close", "open") for kind in ("gif", "png")]
    for name in names:
        assert (tmp_path / "1" / "videos" / name).read_bytes() == (tmp_path / "2" / "videos" / name).read_bytes()


@pytest.mark.parametrize("rest", [{}, {"settings": {}, "tasks": []}, {"tasks": ["faucet-open-v3"], "episodes": 0}])
def test_without_a_simulator_a_marker_is_written_whatever_else_is_set(policy, tmp_path, rest):
    values = config.read_params(REPOSITORY / "params.yaml") | {"rollout": {"environment": "none", **rest}}
    cfg = rollout.Config.parse({name: values[name] for name in rollout.Config.model_fields}, where="params.yaml")
    rollout.run(cfg, policy=policy.path, videos=tmp_path / "videos", metrics=tmp_path / "rollout.json")
    result = json.loads((tmp_path / "rollout.json").read_text())
    assert result == {"bundle_digest": policy.digest, "status": "skipped", **summary([], {})}
    assert "nothing was played" in (tmp_path / "videos" / "README.txt").read_text()


def test_an_environment_demands_its_settings():
    values = config.read_params(REPOSITORY / "params.yaml")
    values["rollout"].pop("settings")
    with pytest.raises(ConfigError, match=r"rollout\.settings: expected a value, found none"):
        rollout.Config.parse({name: values[name] for name in rollout.Config.model_fields}, where="params.yaml")


def test_an_environment_of_another_robot_is_refused(tmp_path):
    other = a_bundle(tmp_path / "policy", state_names=world.STATE_NAMES, action_names=("x", "y"))
    with pytest.raises(ConfigError, match="expected the action dimensions of the bundle"):
        run(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
