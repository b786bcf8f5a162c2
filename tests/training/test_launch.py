"""What launchers decide and say, without starting workers."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

import pytest
import torch

from vla import artifacts
from vla.errors import DataError, LaunchError, WorkerHungError
from vla.training import distributed, launch, launch_settings, lost_worker, train, worker_log
from vla.training.launch_torchrun import first_to_fail, meeting_place


def test_what_the_user_has_set_for_nccl_and_the_allocator_stays():
    assert set(launch_settings.missing({})) == {"NCCL_DEBUG", "PYTORCH_ALLOC_CONF"}
    assert set(launch_settings.missing(os.environ)) <= {"NCCL_DEBUG", "PYTORCH_ALLOC_CONF"}
    assert launch_settings.missing({"NCCL_DEBUG": "INFO", "PYTORCH_ALLOC_CONF": ""}) == {}
    assert set(launch_settings.missing({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"})) == {"NCCL_DEBUG"}


def test_workers_meet_at_a_free_port_or_at_the_one_that_the_user_names():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    assert meeting_place({"MASTER_ADDR": "localhost"}) == ["--standalone"]
    assert meeting_place({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}) == [
        "--master-addr=127.0.0.1",
        f"--master-port={port}",
    ]


def test_a_port_in_use_is_named_with_its_owner():
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = rf"MASTER_PORT: expected a free port, found {port} taken by process {os.getpid()} \("
        with pytest.raises(LaunchError, match=message):
            meeting_place({"MASTER_PORT": str(port)})


def test_a_ray_cluster_that_does_not_answer_is_refused_at_once():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        port = listening.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"RAY_ADDRESS: expected .* found none at localhost:{port} \("):
            launch.check_cluster(f"localhost:{port}")
        listening.listen()
        launch.check_cluster(f"ray://localhost:{port}")
    for address in (None, "auto", "local"):
        launch.check_cluster(address)


@pytest.mark.parametrize(
    ("address", "port", "message"),
    [
        ("192.0.2.1", "29500", "MASTER_ADDR, MASTER_PORT: expected a port that this machine can open, found 192.0.2.1"),
        ("localhost", "70000", "MASTER_PORT: expected a port from 1 to 65535, found '70000'"),
        ("localhost", "http", "MASTER_PORT: expected a port from 1 to 65535, found 'http'"),
    ],
)
def test_a_meeting_place_that_is_none_of_this_machine_is_refused(address, port, message):
    with pytest.raises(LaunchError, match=message):
        meeting_place({"MASTER_ADDR": address, "MASTER_PORT": port})


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (-signal.SIGKILL, "found one ended by SIGKILL. Most often the machine has run out of memory"),
        (137, "found one ended by SIGKILL."),
        (-signal.SIGSEGV, "found one ended by SIGSEGV. A library has crashed"),
        (-signal.SIGUSR2, "found one ended by SIGUSR2. Somebody has ended it"),
        (1, "found exit code 1. Its traceback is above"),
    ],
)
def test_the_end_of_a_worker_is_said_by_its_signal(exit_code, words):
    message = lost_worker.explained(3, exit_code, logs="state/logs")
    assert message.startswith("rank 3: expected a worker that finishes, " + words)
    assert message.endswith("Its log is in state/logs. 'dvc repro' continues from the last checkpoint.")


class Failure:
    """What torchrun tells of a rank."""

    def __init__(self, exitcode: int) -> None:
        self.exitcode = exitcode


@pytest.mark.parametrize(
    ("exit_codes", "rank"),
    [((-15, 1), 1), ((1, -9), 1), ((1, 1), 0), ((-15, -15), 0), ((-11, -15, 1), 0)],
)
def test_the_rank_to_blame_is_the_one_that_torchrun_has_not_ended_itself(exit_codes, rank):
    assert first_to_fail({rank: Failure(code) for rank, code in enumerate(exit_codes)})[0] == rank


def test_a_rank_that_waits_in_vain_says_so_and_one_that_loses_another_one_blames_it():
    def said(text: str, kind: type[Exception]) -> str:
        with (
            pytest.raises(kind) as caught,
            distributed.peers_explained(1, timeout=timedelta(seconds=20)),
        ):
            raise RuntimeError(text)
        return str(caught.value)

    hung = said("[unbound_buffer.cc:78] Timed out waiting 20000ms for recv operation to complete", LaunchError)
    assert hung.startswith("execution.timeout_s: expected all workers at the same point within 20 s, found rank 1")
    lost = said("[pair.cc:553] Connection closed by peer [127.0.0.1]:44266", distributed.PeerLostError)
    assert lost == "rank 1: ends as another worker has ended"
    assert said("a defect", RuntimeError) == "a defect"


def test_a_worker_s_log_has_its_warnings_its_traceback_and_its_stacks_on_request(tmp_path):
    def fail() -> None:
        logging.getLogger("vla.somewhere").warning("the disk is slow")
        os.kill(os.getpid(), signal.SIGUSR1)
        raise ValueError("a defect")

    for _ in range(2):
        with pytest.raises(ValueError, match="a defect"), worker_log.kept(tmp_path, 1):
            fail()
    text = (tmp_path / "rank1.log").read_text()
    assert text.count(f"rank 1 is process {os.getpid()} on {socket.gethostname()}") == 2
    assert "WARNING vla.somewhere: the disk is slow" in text
    assert "most recent call first" in text
    assert text.endswith("ValueError: a defect\n")


def test_a_user_s_error_in_the_log_is_one_message(tmp_path):
    with pytest.raises(DataError), worker_log.kept(tmp_path, 0):
        raise DataError("views: expected two, found one. Correct it.")
    lines = (tmp_path / "rank0.log").read_text().splitlines()
    assert lines[1:] == ["views: expected two, found one. Correct it."]


def test_a_crash_leaves_its_stacks_in_the_log(tmp_path):
    crash = (
        "from pathlib import Path; import ctypes; from vla.training import worker_log\n"
        f"with worker_log.kept(Path({str(tmp_path)!r}), 0): ctypes.string_at(0)"
    )
    ended = subprocess.run([sys.executable, "-c", crash], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGSEGV
    text = (tmp_path / "rank0.log").read_text()
    assert "Fatal Python error: Segmentation fault" in text
    assert "string_at" in text


US, ANOTHER = ({"host": "here", "pid": pid, "started": 1.5} for pid in (7, 8))


def test_the_first_failure_stays_as_what_follows_are_its_consequences(make_job):
    job = make_job()
    launch.record_failure(job, DataError("a view is missing"), US)
    launch.record_failure(job, LaunchError("rank 0 has ended"), US)
    with pytest.raises(DataError, match="a view is missing"):
        launch.raise_failure(job, US)


def test_a_failure_that_a_launcher_of_a_killed_run_leaves_is_none_of_ours(make_job):
    job = make_job()
    launch.record_failure(job, LaunchError("rank 0 has ended"), ANOTHER)
    launch.raise_failure(job, US)
    launch.record_failure(job, DataError("a view is missing"), US)
    with pytest.raises(DataError, match="a view is missing"):
        launch.raise_failure(job, US)


@pytest.mark.parametrize("reached", ["done", "preempted"])
def test_what_workers_have_reached_counts_however_their_launcher_ends(make_job, reached):
    job = make_job()
    launcher = "a.launcher.that.fails"
    with pytest.raises(LaunchError, match="found exit code 1"):
        launch._apart(job, launcher)
    launch.record_failure(job, LaunchError("rank 0 has ended"), launch.this_process())
    artifacts.write_json(getattr(job.state_directory, reached), {"step": 12})
    launch._apart(job, launcher)


def test_what_a_killed_run_s_writer_says_at_its_end_is_not_taken_for_the_next_run_s(make_job):
    directory = make_job().state_directory
    holds = threading.Event()

    def end_slowly() -> None:
        with directory.hold("writer"):
            holds.set()
            time.sleep(0.3)
            artifacts.write_json(directory.preempted, {"step": 3})

    writer = threading.Thread(target=end_slowly)
    writer.start()
    holds.wait()
    train._last_intact_step(directory)
    writer.join()
    assert not directory.preempted.exists()


class Stuck(distributed.Context):
    """A worker that waits for another one in vain."""

    def sum(self, values: Sequence[float]) -> list[float]:
        raise RuntimeError(f"Timed out waiting 2000ms for recv of {len(values)} numbers")


@pytest.mark.parametrize(("launcher", "recorded"), [("ray", False), ("torchrun", True)])
def test_a_hung_worker_ends_the_training_only_where_nobody_starts_workers_again(make_job, launcher, recorded):
    job, driver = make_job(execution__launcher=launcher), launch.this_process()
    with pytest.raises(WorkerHungError, match=r"execution\.timeout_s: expected all workers at the same point"):
        launch.work(job.plain(), driver, Stuck(0, 1, torch.device("cpu"), None))
    assert job.state_directory.failure.is_file() == recorded


def test_a_worker_that_does_not_see_its_driver_s_files_says_so_before_it_trains(make_job):
    job, driver = make_job(), launch.this_process()
    artifacts.write_json(job.state / launch.JOB_FILE, {"driver": ANOTHER})
    with pytest.raises(LaunchError, match=f"{job.state}: expected a folder with the same files for all workers"):
        launch.work(job.plain(), driver, distributed.single("cpu"))
    assert not job.state_directory.checkpoints.exists()
