"""The resume contract: a training that was killed with -9 ends with the bits of one that was not."""

import random

import forks
import pytest
from batches import PALIGEMMA, PI
from forks import Plan
from kills import Kills
from projects import write_params
from trainings import TWO_WORKERS, digest_of_weights, finish, forget_states, kill_all, start, wait_for_step, weights

from vla import keyed
from vla.training import distributed, loop
from vla.training.state import TrainState

BACKWARD = {"policy__name": "backward_vla", "execution__micro_batch": 1}
PI05 = {
    "policy": {**PI, "name": "pi05", "freeze_vision_tower": True},
    "transforms__max_tokens": 24,
    "execution__micro_batch": 2,
    "execution__activation_checkpointing": True,
}
ADAPTED = {
    "policy": {
        **PALIGEMMA,
        "name": "paligemma_vla",
        "per_action_dim": 4,
        "action_dim": 16,
        "backbone": {**PALIGEMMA["backbone"], "dtype": "bfloat16"},
        "freeze_language_model": True,
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.5, "targets": ["q_proj"]},
    },
    "execution__micro_batch": 2,
    "train__precision": "bfloat16",
}
"""Frozen weights in bfloat16, and dropout."""


@pytest.mark.slow
def test_trainings_killed_at_fifty_random_moments_end_as_if_nobody_had_disturbed_them(tmp_path):
    tally = Kills(tmp_path / "project", seed=0).until(50)
    assert tally.different == []
    assert tally.kills.total() == 50
    assert min(tally.kills["moment"], tally.kills["operation"]) > 10
    assert len(tally.went_on_from) > 5, "kills at all times of a training"


@pytest.mark.parametrize(
    ("world", "changes"),
    [
        (2, {"execution__micro_batch": 2}),
        (4, {"execution__micro_batch": 1, "train__order": "blocks", "train__buffer_steps": 5}),
        (4, BACKWARD),
        pytest.param(2, PI05, marks=pytest.mark.slow, id="pi05"),
        pytest.param(2, ADAPTED, marks=pytest.mark.slow, id="paligemma_vla"),
    ],
)
def test_ranks_killed_in_the_middle_end_bit_equal(make_job, world, changes):
    whole, killed = make_job("whole", **changes), make_job("killed", **changes, execution__checkpoint_every=1)
    forks.finish(whole, world=world)
    for step in (2, 7):
        workers = forks.start(killed, world=world)
        forks.wait_for_step(killed, step)
        workers[random.Random(step).randrange(world)].kill()
        forks.kill(workers)
    assert not killed.state_directory.done.is_file()
    forks.finish(killed, world=world)
    assert forks.result(killed) == forks.result(whole)


@pytest.mark.parametrize("settles", [True, False])
def test_ddp_has_to_settle_first_where_parts_are_used_in_another_order_than_registered(make_job, settles):
    """From three ranks on, the order of its sums shows; without the two passes a resume would begin with another."""
    whole, parts = make_job("whole", **BACKWARD), make_job("parts", **BACKWARD)
    forks.finish(whole, Plan(settles=settles), world=4)
    forks.finish(parts, Plan(settles=settles, stop_at=5), world=4)
    forks.finish(parts, Plan(settles=settles), world=4)
    assert (forks.result(parts) == forks.result(whole)) == settles


def nothing(monkeypatch):
    return {}


def another_seed(monkeypatch):
    return {"seed": 1}


def another_noise_key(monkeypatch):
    """The purpose differs in one bit."""
    drawn = keyed.normals

    def normals(seed, purpose, *index, **shape):
        return drawn(seed, "noisd" if purpose == "noise" else purpose, *index, **shape)

    monkeypatch.setattr(keyed, "normals", normals)
    return {}


def a_step_too_late(monkeypatch):
    load = TrainState.load

    def load_late(state, found):
        load(state, found)
        state.step += 1

    monkeypatch.setattr(TrainState, "load", load_late)
    return {}


def moments_lost(monkeypatch):
    monkeypatch.setattr(TrainState, "_load_moments", lambda *_arguments, **_options: None)
    return {}


@pytest.mark.parametrize("change", [nothing, another_seed, another_noise_key, a_step_too_late, moments_lost])
def test_the_comparison_finds_a_resume_that_is_not_exact(make_job, monkeypatch, change):
    """Negative controls: each begins like the undisturbed training and goes on otherwise."""
    settings = {"execution__record_batches": True, "train__validation_actions": 0}
    whole, parts = make_job("whole", **settings), make_job("parts", **settings)
    assert loop.train(whole, distributed.single("cpu")) == "done"
    stopped = forks.Stopped(0, 1, forks.CPU, None)
    stopped.steps = 5
    assert loop.train(parts, stopped) == "preempted"
    goes_on = make_job("parts", **settings, **change(monkeypatch))
    assert loop.train(goes_on, distributed.single("cpu")) == "done"
    is_equal = change is nothing
    weights = [digest_of_weights(job.state_directory.bundle) for job in (parts, whole)]
    digests = [
        {step: row["batch_digest"] for step, row in forks.rows(job) if "batch_digest" in row} for job in (parts, whole)
    ]
    assert (weights[0] == weights[1]) == is_equal
    assert (forks.rows(parts) == forks.rows(whole)) == is_equal
    assert (digests[0] == digests[1]) == (change in (nothing, moments_lost))


@pytest.mark.slow
def test_the_command_goes_on_after_kill_9_of_everything_it_started(make_job, project):
    """By torchrun, with the bits of two ranks that were started by hand."""
    settings = {**TWO_WORKERS, "execution.checkpoint_every": 1, "train.steps": 30}
    undisturbed = make_job("whole", **{name.replace(".", "__"): value for name, value in settings.items()})
    forks.finish(undisturbed, world=2)
    write_params(project, settings)
    forget_states(project)
    process = start(project, "killed")
    wait_for_step(project, 3)
    kill_all(process)
    assert "resuming at step" in finish(start(project, "killed"))
    assert weights(project, "killed") == digest_of_weights(undisturbed.state_directory.bundle)
