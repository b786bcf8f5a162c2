"""The real pipeline in a temporary clone at reduced size: what runs, what is cached, and what a kill leaves behind.

The tests of this file share one clone and build on each other, in order.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from clones import Clone

from vla.stages import STAGES

pytestmark = pytest.mark.slow
SMALL = {
    "download.sim.tasks": ["drawer-open-v3", "faucet-open-v3"],
    "download.sim.episodes_per_task": 5,
    "download.sim.image_size": [32, 32],
    "transforms.image_size": [32, 32],
    "policy.width": 32,
    "policy.encoder_layers": 1,
    "policy.expert_layers": 1,
    "execution.launcher": "ray",
    "execution.workers": 2,
    "execution.micro_batch": 8,
    "execution.log_every": 5,
    "execution.checkpoint_every": 10,
    "execution.validate_every": 20,
    "train.steps": 40,
    "train.batch_size": 16,
    "train.validation_samples": 16,
    "train.validation_actions": 8,
    "validate.holdout": 0.2,
    "evaluate.plotted_episodes": 1,
    "rollout.tasks": ["drawer-open-v3", "faucet-open-v3"],
    "rollout.episodes": 1,
    "rollout.swapped_episodes": 1,
    "rollout.settings": {"image_size": [32, 32], "max_steps": 12},
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    made = Clone(tmp_path_factory.mktemp("clone") / "project")
    made.change(**{name.replace(".", "__"): value for name, value in SMALL.items()})
    made.commit("small")
    return made


def test_the_whole_pipeline_runs_under_ray_and_registers_a_policy(clone):
    assert clone.repro() == list(STAGES)
    registration = clone.read("outputs/registration.json")
    assert registration["version"] == 1 or registration["version"] == "1"
    assert clone.read("outputs/evaluation.json")["bundle_digest"] == registration["bundle_digest"]
    assert clone.read("outputs/rollout.json")["episodes"] == 2


def test_a_second_repro_runs_nothing(clone):
    assert clone.repro() == []


def test_where_a_stage_runs_is_no_reason_to_run_it_again(clone):
    clone.change(execution__launcher="local", execution__workers=1, execution__rollout_workers=1)
    clone.change(execution__log_every=20, execution__validate_every=200)
    assert clone.repro() == []


def test_another_learning_rate_reruns_train_and_what_follows(clone):
    before = clone.weights()
    clone.change(train__optimizer__lr=3.0e-3)
    assert clone.repro() == ["train", "evaluate", "rollout", "register"]
    assert clone.weights() != before


def test_the_old_learning_rate_is_restored_and_only_registered(clone):
    clone.change(train__optimizer__lr=1.0e-3)
    assert clone.repro() == ["register"]


def test_an_experiment_publishes_its_run_and_leaves_versions_alone(clone):
    clone.commit("settings")
    before = clone.versions()
    clone.dvc("exp", "run", "--temp", "--name", "faster", "-S", "train.optimizer.lr=3e-4")
    assert clone.versions() == before
    assert clone.experiments() == {"faster"}
    clone.dvc("exp", "apply", "faster")
    assert "lr" in clone.dvc("params", "diff")
    assert "loss" in clone.dvc("metrics", "diff")
    clone.dvc("plots", "show", "outputs/loss.csv")
    assert clone.repro() == ["register"]
    registered = str(clone.read("outputs/registration.json")["version"])
    assert set(clone.versions()) - set(before) == {registered}


def test_an_experiment_in_the_workspace_is_registered_on_demand(clone):
    clone.commit("registered")
    before = clone.versions()
    clone.dvc("exp", "run", "--name", "slower", "-S", "train.optimizer.lr=2e-4")
    assert clone.versions() == before
    clone.dvc("repro", "--force", "--single-item", "register")
    registered = str(clone.read("outputs/registration.json")["version"])
    assert set(clone.versions()) - set(before) == {registered}


def processes_of(clone: Clone) -> list[psutil.Process]:
    """Processes that work in the clone's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(clone.root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def wait_for(condition, *, timeout: float = 90.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def unfinished_states(clone: Clone) -> list[Path]:
    return [state for state in (clone.root / ".vla/state").iterdir() if not (state / "done.json").exists()]


def checkpoints(clone: Clone) -> list[Path]:
    return [item for state in unfinished_states(clone) for item in (state / "checkpoints").glob("*[0-9]")]


@pytest.mark.parametrize(
    ("seed", "shell", "launcher", "workers"), [(1, "/bin/bash", "local", 1), (2, "/bin/dash", "torchrun", 2)]
)
def test_after_kill_9_of_dvc_nothing_is_orphaned_and_training_goes_on(clone, seed, shell, launcher, workers):
    if not Path(shell).exists():
        pytest.skip(f"{shell} is not installed here")
    clone.change(seed=seed, train__steps=300, execution__launcher=launcher, execution__workers=workers)
    clone.change(execution__checkpoint_every=25)
    process = clone.start("repro", "train", SHELL=shell)
    wait_for(lambda: checkpoints(clone))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not processes_of(clone), timeout=30)
    stopped_at = max(int(item.name) for item in checkpoints(clone))
    assert 0 < stopped_at < 300
    output = clone.dvc("repro", "train", SHELL=shell)
    assert f"resuming at step {stopped_at} of 300" in output
    resumed = clone.weights()
    for state in (clone.root / ".vla/state").iterdir():
        subprocess.run(["rm", "-rf", state], check=True)
    clone.dvc("repro", "--force", "--single-item", "train")
    assert clone.weights() == resumed
