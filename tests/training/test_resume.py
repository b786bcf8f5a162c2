"""The resume contract, on whole jobs: a training that was killed ends with the bits of one that was not."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from projects import REPOSITORY, a_project, train_flags, train_paths, write_params

from vla.errors import Preempted

pytestmark = pytest.mark.slow
STEPS = 60
CHANGES = {"train.steps": STEPS, "execution.checkpoint_every": 7, "execution.validate_every": 30}
TWO_WORKERS = {"execution.launcher": "torchrun", "execution.workers": 2, "execution.micro_batch": 2}

BLOCKS = {"train.order": "blocks", "train.buffer_steps": 5}
FOUR_WORKERS = {**TWO_WORKERS, **BLOCKS, "execution.workers": 4, "execution.micro_batch": 1}
"""From three ranks on, the order in which DDP sums depends on its buckets, which it rebuilds after the first step."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = a_project(tmp_path_factory.mktemp("project"))
    subprocess.run(["git", "init", "-q", root], check=True)
    return root


@pytest.fixture(scope="module")
def whole(project):
    """Uninterrupted trainings to compare with: `whole-N` by N workers."""
    for workers, changes in ((1, {}), (2, TWO_WORKERS), (4, FOUR_WORKERS)):
        forget_states(project)
        write_params(project, {**CHANGES, **changes})
        finish(start(project, f"whole-{workers}"))
    return project


def command(project: Path, out: str) -> list[str]:
    return [sys.executable, "-m", "vla", "train", *train_flags(project, out)]


def environment(project: Path) -> dict[str, str]:
    names = ("TORCHELASTIC_RUN_ID", "DVC_STAGE", "DVC_EXP_NAME", "DVC_ROOT")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    uri = f"sqlite:///{project}/mlflow.db"
    return {**kept, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": uri}


def start(project: Path, out: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(project, out),
        cwd=project,
        env=environment(project),
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return errors


def forget_states(project: Path) -> None:
    """Forget all trainings, so that the next one starts from nothing."""
    subprocess.run(["rm", "-rf", project / ".vla" / "state"], check=True)


def wait_for_step(project: Path, step: int, *, timeout: float = 90.0) -> None:
    """Wait until a checkpoint of at least `step` exists."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = [int(item.name) for item in (project / ".vla" / "state").glob("*/checkpoints/*") if item.name.isdigit()]
        if max(found, default=0) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint of step {step} within {timeout} s")


def kill_all(process: "subprocess.Popen[str]") -> None:
    """kill -9 of a process and everything it started."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    process.communicate()


def weights(project: Path, out: str) -> str:
    return hashlib.sha256((project / out / "policy" / "model.safetensors").read_bytes()).hexdigest()


def losses(project: Path, out: str) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (project / out / "training" / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["metrics"]["loss"]) for row in rows if "loss" in row["metrics"]]


@pytest.mark.parametrize(("workers", "topology"), [(1, {}), (2, TWO_WORKERS), (4, FOUR_WORKERS)])
def test_a_killed_training_ends_bit_equal_to_an_uninterrupted_one(whole, workers, topology):
    forget_states(whole)
    write_params(whole, {**CHANGES, **topology})
    for step in (7, 28):
        process = start(whole, "killed")
        wait_for_step(whole, step)
        kill_all(process)
    assert "resuming at step" in finish(start(whole, "killed"))
    assert weights(whole, "killed") == weights(whole, f"whole-{workers}")
    assert losses(whole, "killed") == losses(whole, f"whole-{workers}")


def test_another_seed_ends_with_other_weights(whole):
    """The negative control of bit equality."""
    write_params(whole, {**CHANGES, "seed": 1})
    finish(start(whole, "other"))
    assert weights(whole, "other") != weights(whole, "whole-1")


def test_two_workers_train_what_one_worker_trains_up_to_rounding(whole):
    first, second = losses(whole, "whole-1"), losses(whole, "whole-2")
    assert first[0][1] == pytest.approx(second[0][1], rel=1e-6)
    assert [value for _, value in first] == pytest.approx([value for _, value in second], rel=1e-2)


LONG = {"train.steps": 100_000, "execution.checkpoint_every": 100_000}


def stop_in_mid_training(project: Path, out: str, number: signal.Signals) -> None:
    """Start a training, send the signal to its process group once it trains, and check how it ends."""
    process = start(project, out)
    deadline = time.monotonic() + 90
    while not list((project / ".vla" / "state").glob("*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == Preempted.exit_code, errors
    assert "after a checkpoint" in errors
    steps = [int(item.name) for item in (project / ".vla" / "state").glob("*/checkpoints/*")]
    assert len(steps) == 1
    assert 0 < steps[0] < LONG["train.steps"]
    assert not (project / out).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_and_its_own_exit_code(project, number):
    forget_states(project)
    write_params(project, {**CHANGES, **LONG})
    stop_in_mid_training(project, "stopped", number)


def test_ctrl_c_reaches_torchrun_as_a_request_for_a_checkpoint(project):
    forget_states(project)
    write_params(project, {**CHANGES, **LONG, **TWO_WORKERS})
    stop_in_mid_training(project, "stopped", signal.SIGINT)


def test_a_finished_training_is_exported_again_in_place_of_being_repeated(project):
    forget_states(project)
    write_params(project, CHANGES)
    finish(start(project, "first"))
    journal = next((project / ".vla" / "state").glob("*/metrics.jsonl"))
    written = journal.stat().st_mtime_ns
    finish(start(project, "second"))
    assert weights(project, "first") == weights(project, "second")
    assert journal.stat().st_mtime_ns == written


def test_a_result_that_was_damaged_after_the_training_is_made_again(whole):
    forget_states(whole)
    write_params(whole, CHANGES)
    finish(start(whole, "kept"))
    made = next((whole / ".vla" / "state").glob("*/bundle/model.safetensors"))
    content = bytearray(made.read_bytes())
    content[-1] ^= 1
    made.write_bytes(content)
    assert "found a damaged one. Making it again" in finish(start(whole, "again"))
    assert weights(whole, "again") == weights(whole, "whole-1")


def test_execution_is_no_part_of_a_training_s_identity(project):
    forget_states(project)
    write_params(project, {**CHANGES, "train.steps": 2000, "execution.checkpoint_every": 5})
    process = start(project, "moved")
    wait_for_step(project, 10)
    kill_all(process)
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["execution"].update(launcher="torchrun", workers=2, micro_batch=2)
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    process = start(project, "moved")
    latest = max(int(item.name) for item in (project / ".vla" / "state").glob("*/checkpoints/*") if item.name.isdigit())
    wait_for_step(project, latest + 5)
    assert len(list((project / ".vla" / "state").iterdir())) == 1
    kill_all(process)


def test_under_torchrun_each_process_is_the_stage(whole):
    forget_states(whole)
    write_params(whole, {**CHANGES, **TWO_WORKERS})
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vla", "train"]
    for out in ("direct", "finished"):
        result = subprocess.run(
            [*words, *train_flags(whole, out)],
            cwd=whole,
            env=environment(whole),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert weights(whole, out) == weights(whole, "whole-2")
    assert train_paths(whole, "direct")["metrics"].is_file()


RAY = {**TWO_WORKERS, "execution.launcher": "ray", "execution.max_failures": 1, "train.steps": 400}


def ray_workers(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes in which Ray trains."""
    found = []
    for member in psutil.Process(process.pid).children(recursive=True):
        try:
            if member.name().startswith("ray::") and "Worker" in member.name():
                found.append(member)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.xdist_group("ray")
def test_a_lost_ray_worker_is_replaced_and_the_result_is_that_of_torchrun(project):
    forget_states(project)
    write_params(project, {**CHANGES, **RAY, "execution.launcher": "torchrun"})
    finish(start(project, "torchrun"))
    forget_states(project)
    write_params(project, {**CHANGES, **RAY})
    process = start(project, "ray")
    wait_for_step(project, 28)
    workers = ray_workers(process)
    assert len(workers) == 2
    workers[1].kill()
    finish(process)
    assert weights(project, "ray") == weights(project, "torchrun")


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_ray_leaves_a_checkpoint(project, number):
    forget_states(project)
    write_params(project, {**CHANGES, **RAY, **LONG})
    stop_in_mid_training(project, "ray-stopped", number)


@pytest.mark.xdist_group("ray")
def test_ray_ends_with_a_killed_driver(project):
    forget_states(project)
    write_params(project, {**CHANGES, **RAY, "train.steps": 100_000})
    process = start(project, "ray-orphaned")
    wait_for_step(project, 7)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = ray_workers(process)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []
    _, alive = psutil.wait_procs(family, timeout=60)
    assert [member.name() for member in alive] == []
