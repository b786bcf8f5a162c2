"""Asked to stop by a signal, whoever gets it, a training leaves a checkpoint and an exit code of its own."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from projects import write_params
from trainings import (
    TORCHRUN,
    TWO_WORKERS,
    Process,
    family,
    finish,
    forget_states,
    kill_all,
    saved_steps,
    start,
    wait_for_metrics,
    wait_for_step,
    weights,
)

from vla.errors import Preempted

pytestmark = pytest.mark.slow
ENDLESS = {"train.steps": 100_000, "execution.checkpoint_every": 100_000, "execution.validate_every": 100_000}
RAY = {**TWO_WORKERS, "execution.launcher": "ray", "execution.max_failures": 1, "train.steps": 400}


def to_group(process: Process, number: signal.Signals) -> None:
    """As a terminal and a process supervisor do."""
    os.killpg(process.pid, number)


def to_all(process: Process, number: signal.Signals) -> None:
    """As a cluster's scheduler does: the launcher and the workers are in sessions of their own."""
    for member in family(process):
        member.send_signal(number)


def to_a_worker(process: Process, number: signal.Signals) -> None:
    workers = [member for member in family(process) if "vla.training.worker" in member.cmdline()]
    assert len(workers) > 1
    workers[-1].send_signal(number)


def stop(project: Path, changes: dict, send: Callable[[Process, signal.Signals], None], number: signal.Signals) -> None:
    """Start an endless training, send the signal once it trains, and check how it ends."""
    forget_states(project)
    write_params(project, {**ENDLESS, **changes})
    process = start(project, "stopped")
    try:
        wait_for_metrics(project)
        send(process, number)
        assert "after a checkpoint" in finish(process, code=Preempted.exit_code)
    finally:
        if process.poll() is None:
            kill_all(process)
    (step,) = saved_steps(project)
    assert 0 < step < ENDLESS["train.steps"]
    assert not (project / "stopped").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_and_its_own_exit_code(project, number):
    stop(project, {}, to_group, number)


@pytest.mark.parametrize(
    ("send", "number"),
    [(to_group, signal.SIGINT), (to_group, signal.SIGTERM), (to_all, signal.SIGTERM), (to_a_worker, signal.SIGTERM)],
)
def test_under_torchrun_it_does_not_matter_who_gets_the_signal(project, send, number):
    stop(project, TWO_WORKERS, send, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_torchrun_of_one_s_own_passes_the_signal_on(project, number):
    forget_states(project)
    write_params(project, {**ENDLESS, **TWO_WORKERS})
    process = start(project, "stopped", launcher=TORCHRUN)
    wait_for_metrics(project)
    process.send_signal(number)
    # torchrun has an exit code of its own.
    assert "after a checkpoint" in finish(process, code=1)
    assert len(saved_steps(project)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_ray_leaves_a_checkpoint(project, number):
    stop(project, {**RAY, **ENDLESS}, to_group, number)


def test_torchrun_ends_with_a_killed_driver_and_leaves_no_failure(project):
    forget_states(project)
    write_params(project, {**TWO_WORKERS, "train.steps": 100_000})
    process = start(project, "orphaned")
    wait_for_step(project, 3)
    others = family(process)[1:]
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(others, timeout=10)
    assert alive == []
    assert list(project.glob(".vla/state/*/failure.json")) == []


def ray_workers(process: Process) -> list[psutil.Process]:
    """The processes in which Ray trains."""
    found = []
    for member in family(process)[1:]:
        try:
            if member.name().startswith("ray::") and "Worker" in member.name():
                found.append(member)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_or_hung_ray_worker_is_replaced_and_the_result_is_that_of_torchrun(project, number):
    forget_states(project)
    write_params(project, {**RAY, "execution.launcher": "torchrun"})
    finish(start(project, "torchrun"))
    forget_states(project)
    write_params(project, {**RAY, "execution.timeout_s": 20})
    process = start(project, "ray")
    wait_for_step(project, 28)
    workers = ray_workers(process)
    assert len(workers) == 2
    workers[1].send_signal(number)
    finish(process)
    assert weights(project, "ray") == weights(project, "torchrun")


def test_ray_ends_with_a_killed_driver(project):
    forget_states(project)
    write_params(project, {**RAY, "train.steps": 100_000})
    process = start(project, "ray-orphaned")
    wait_for_step(project, 7)
    servers, workers = family(process)[1:], ray_workers(process)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []
    _, alive = psutil.wait_procs(servers, timeout=60)
    assert [member.name() for member in alive] == []
