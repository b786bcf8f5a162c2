"""A training goes on with another number of workers: on the same samples and draws, and within rounding at first."""

import json
import shutil

import forks
import pytest
from forks import Plan
from projects import write_params
from trainings import TWO_WORKERS, finish, forget_states, kill_all, losses, saved_steps, start, wait_for_step

from vla.training.job import Job

RECORDED = {
    "execution__record_batches": True,
    "execution__log_every": 1,
    "execution__micro_batch": 3,
    "train__validation_actions": 0,
}


def by_step(job: Job, name: str) -> list[float]:
    return [row[name] for _, row in forks.rows(job) if name in row]


def assert_close(found: Job, expected: Job, *, step: int) -> None:
    """The contract of the first step after a change of workers."""
    for name, tolerance in (("loss", 1e-6), ("grad_norm", 1e-5)):
        assert by_step(found, name)[step] == pytest.approx(by_step(expected, name)[step], rel=tolerance, abs=0), name


@pytest.mark.parametrize("order", ["full", "blocks"])
def test_workers_may_change_at_any_step_and_each_step_trains_on_the_same(make_job, order):
    settings = {**RECORDED, "train__order": order, "train__buffer_steps": 6}
    whole, moved = make_job("whole", **settings), make_job("moved", **settings)
    forks.finish(whole)
    forks.finish(moved, Plan(stop_at=4))
    forks.finish(moved, Plan(stop_at=8), world=2)
    stayed = make_job("stayed", **settings)
    shutil.copytree(moved.state, stayed.state, dirs_exist_ok=True)
    forks.finish(stayed, world=2)
    forks.finish(moved)
    digests = by_step(whole, "batch_digest")
    assert len(set(digests)) == len(digests) == 12
    assert by_step(moved, "batch_digest") == by_step(stayed, "batch_digest") == digests
    assert by_step(moved, "loss")[:4] == by_step(whole, "loss")[:4]
    assert_close(moved, whole, step=4)
    assert_close(moved, stayed, step=8)
    assert by_step(moved, "loss") == pytest.approx(by_step(whole, "loss"), rel=1e-2)


def test_four_workers_begin_as_one_and_train_on_the_same(make_job):
    one, four = make_job("one", **RECORDED), make_job("four", **RECORDED)
    forks.finish(one, Plan(stop_at=3))
    forks.finish(four, Plan(stop_at=3), world=4)
    assert by_step(four, "batch_digest") == by_step(one, "batch_digest")
    assert_close(four, one, step=0)


def test_another_seed_and_another_step_have_other_digests(make_job):
    first, other = make_job("first", **RECORDED), make_job("other", **RECORDED, seed=1)
    for job in (first, other):
        forks.finish(job, Plan(stop_at=3))
    assert len({*by_step(first, "batch_digest"), *by_step(other, "batch_digest")}) == 6


def test_steps_are_recorded_on_request_only(make_job):
    plain = make_job("plain")
    forks.finish(plain, Plan(stop_at=2))
    assert by_step(plain, "batch_digest") == []


@pytest.mark.slow
def test_the_command_takes_up_a_training_with_another_launcher_and_back(project):
    """What it runs on is no part of a training's identity."""
    short = {"train.steps": 40, "execution.checkpoint_every": 2, "execution.record_batches": True}
    forget_states(project)
    write_params(project, short)
    finish(start(project, "stayed"))
    forget_states(project)
    # Stopped before the end: a kill between two steps of a longer training would come too late on a fast machine.
    for changes in ({}, TWO_WORKERS):
        write_params(project, {**short, **changes})
        reached = max(saved_steps(project), default=0)
        process = start(project, "moved")
        wait_for_step(project, reached + 4)
        kill_all(process)
    write_params(project, short)
    assert "resuming at step" in finish(start(project, "moved"))
    states = list((project / ".vla" / "state").iterdir())
    assert len(states) == 1
    assert digests(project, "moved") == digests(project, "stayed")
    assert dict(losses(project, "moved")) == pytest.approx(dict(losses(project, "stayed")), rel=1e-2)


def digests(project, out: str) -> list[float]:
    rows = [json.loads(line) for line in (project / out / "training" / "metrics.jsonl").read_text().splitlines()]
    return [row["metrics"]["batch_digest"] for row in rows if "batch_digest" in row["metrics"]]
