"""Workers as launchers start them: on two machines by torchrun, in a standing Ray cluster; and how a loss is told."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from projects import train_flags, write_params
from trainings import (
    LIMIT_S,
    TWO_WORKERS,
    environment,
    finish,
    forget_states,
    saved_steps,
    start,
    wait_for_step,
    weights,
)

STEPS = {"train.steps": 12, "execution.checkpoint_every": 4}
TOKEN = "hf_not_to_be_seen"
COMMIT = "8d1f0c2be5a94f3c7f6e2a41b09d35c8e7a6f914"
OF_THE_HUB = ("VLA_ASSETS", "HF_HUB_OFFLINE", "HF_HOME", "HF_TOKEN")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def of_rank(rank: int, process: "subprocess.Popen[str]") -> psutil.Process:
    """The torchrun worker of a rank."""
    for member in psutil.Process(process.pid).children(recursive=True):
        if "vla.training.worker" in member.cmdline() and member.environ().get("RANK") == str(rank):
            return member
    raise AssertionError(f"no worker of rank {rank}")


@pytest.mark.slow
def test_a_killed_torchrun_worker_is_named_with_its_signal_and_the_next_run_goes_on(project):
    forget_states(project)
    write_params(project, {**TWO_WORKERS, "train.steps": 400, "execution.checkpoint_every": 4})
    process = start(project, "killed")
    wait_for_step(project, 4)
    of_rank(1, process).kill()
    said = finish(process, code=2)
    assert "vla train: rank 1: expected a worker that finishes, found one ended by SIGKILL." in said
    assert "Traceback" not in said
    write_params(project, {**TWO_WORKERS, "train.steps": 400, "execution.checkpoint_every": 400})
    assert "resuming at step" in finish(start(project, "killed"))


@pytest.mark.slow
def test_two_machines_under_torchrun_train_what_one_does(project):
    forget_states(project)
    write_params(project, {**TWO_WORKERS, **STEPS})
    finish(start(project, "one"))
    forget_states(project)
    place = f"--rdzv-endpoint=localhost:{free_port()}"
    words = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", place, "--local-addr=localhost"]
    launcher = ("-m", "torch.distributed.run", *words)
    machines = [start(project, "two", launcher=launcher) for _ in range(2)]
    for machine in machines:
        finish(machine)
    assert weights(project, "two") == weights(project, "one")
    assert len(list(project.glob(".vla/state/*/logs/rank*.log"))) == 2


@pytest.mark.slow
def test_two_machines_that_share_no_storage_are_refused_with_the_folder(project, tmp_path):
    forget_states(project)
    write_params(project, {**TWO_WORKERS, **STEPS})
    shutil.copytree(project, tmp_path / "other")
    place = f"--rdzv-endpoint=localhost:{free_port()}"
    words = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", place, "--local-addr=localhost"]
    launcher = ("-m", "torch.distributed.run", *words)
    folders = [project, tmp_path / "other"]
    machines = [start(folder, "two", launcher=launcher) for folder in folders]
    for folder, machine in zip(folders, machines, strict=True):
        said = finish(machine, code=1)
        assert f"{folder}/.vla/state: expected a folder with the same files for all workers" in said
        assert saved_steps(folder) == []


@pytest.fixture
def cluster(tmp_path):
    """The address of a Ray cluster of another person: other folder, other environment, and a token."""
    ours = (*OF_THE_HUB, "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of the cluster", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    port, files = free_port(), Path(f"/tmp/vla-test-{os.getpid()}")  # Ray's sockets need a short path
    words = ["start", "--head", f"--port={port}", f"--temp-dir={files}", "--num-cpus=2", "--num-gpus=0", "--block"]
    quiet = ["--include-dashboard=false", "--disable-usage-stats", "--ray-client-server-port", str(free_port())]
    ray = [str(Path(sys.executable).with_name("ray")), *words, *quiet]
    with (
        (tmp_path / "ray.log").open("w") as output,
        subprocess.Popen(
            ray, cwd=tmp_path, env={**kept, **access}, start_new_session=True, stdout=output, stderr=output
        ) as head,
    ):
        try:
            deadline = time.monotonic() + LIMIT_S
            while "Ray runtime started" not in (tmp_path / "ray.log").read_text():
                assert head.poll() is None, (tmp_path / "ray.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "ray.log").read_text()
                time.sleep(0.2)
            yield {"RAY_ADDRESS": f"127.0.0.1:{port}", **access}, files
        finally:
            family = psutil.Process(head.pid).children(recursive=True)
            head.send_signal(signal.SIGTERM)
            psutil.wait_procs(family, timeout=20)
            os.killpg(head.pid, signal.SIGKILL)
    subprocess.run(["rm", "-rf", files], check=True)


@pytest.mark.slow
def test_a_standing_ray_cluster_trains_with_our_code_and_our_access_to_the_hub(project, cluster, tmp_path):
    access, files = cluster
    tokenizer = make_tokenizer(project, tmp_path)
    forget_states(project)
    ray = {**TWO_WORKERS, **STEPS, "execution.launcher": "ray", **tokenizer}
    write_params(project, {**ray, "execution.workers": 4, "execution.micro_batch": 1})
    ours = {**access, "VLA_ASSETS": str(tmp_path / "assets"), "HF_HUB_OFFLINE": "1", "HF_TOKEN": TOKEN}
    said = train(project, "many", ours, code=2)
    assert "execution.workers: expected at most 2, the number of CPUs that Ray has, found 4." in said
    said = train(project, "strange", {**ours, "RAY_AUTH_TOKEN": "another"}, code=2)
    assert "RAY_ADDRESS: expected a Ray cluster that lets this training in" in said
    assert "another" not in said
    write_params(project, ray)
    said = train(project, "cluster", ours)
    assert TOKEN not in said
    assert files_with("PYTHONPATH", files)
    assert not files_with(f"{TOKEN}|{tmp_path}/assets", files)
    write_params(project, {**ray, "execution.launcher": "torchrun"})
    forget_states(project)
    train(project, "torchrun", ours)
    assert weights(project, "cluster") == weights(project, "torchrun")


def files_with(pattern: str, folder: Path) -> bytes:
    """Names of the files below a folder in which the pattern stands."""
    return subprocess.run(["grep", "-rlE", pattern, folder], capture_output=True, check=False).stdout


def make_tokenizer(project: Path, place: Path) -> dict[str, object]:
    """A tokenizer that only those find who know VLA_ASSETS; returns the parameters that name it."""
    forget_states(project)
    write_params(project, {"train.steps": 1})
    finish(start(project, "words"))
    folder = place / "assets" / "lab--words" / COMMIT
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_bytes((project / "words" / "policy" / "tokenizer.json").read_bytes())
    return {"transforms.tokenizer": {"source": "lab/words", "revision": COMMIT}}


def train(project: Path, out: str, changes: dict[str, str], *, code: int = 0) -> str:
    """`vla train` in a changed environment; returns what it said."""
    words = [sys.executable, "-m", "vla", "train", *train_flags(project, out)]
    given = {name: value for name, value in environment(project).items() if name not in OF_THE_HUB}
    ended = subprocess.run(
        words, cwd=project, env={**given, **changes}, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ended.returncode == code, ended.stderr
    return ended.stderr
