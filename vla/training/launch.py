"""Start the workers of a job: under Ray Train, under torchrun, or in this process. All three run `loop.train`."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import vla
from vla import artifacts, errors, lifeline
from vla.errors import LaunchError, UserError, WorkerHungError
from vla.training import distributed, launch_settings, loop, worker_log
from vla.training.job import Job

JOB_FILE = "job.json"
HEARTBEAT_LIMIT_S = 5.0
CONNECT_S = 10.0
ROOT = Path(vla.__file__).parent.parent
"""Lets workers import the same `vla` as this process, also in an experiment's workspace."""


def launch(job: Job) -> None:
    """Train with the job's launcher; returns when the workers are done or have stopped after a checkpoint.

    Whether the training is done stands in the state directory. A worker's UserError is raised here as itself.
    """
    start = {"ray": _with_ray, "torchrun": _with_torchrun, "local": _here}[job.cfg.execution.launcher]
    start(job)


def _here(job: Job) -> None:
    if job.cfg.execution.workers != 1:
        raise errors.ConfigError(
            f"execution.workers: expected 1 with launcher local, found {job.cfg.execution.workers}. "
            f"Set it to 1, or the launcher to torchrun or ray."
        )
    context = distributed.single(job.cfg.execution.device)
    context.stop_file = job.state_directory.stop
    train(job, context)


def _with_torchrun(job: Job) -> None:
    _apart(job, "vla.training.launch_torchrun")


def _with_ray(job: Job) -> None:
    check_cluster(os.environ.get("RAY_ADDRESS"))
    _apart(job, "vla.training.launch_ray")


def check_cluster(address: str | None) -> None:
    """Raise LaunchError where nobody listens at HOST:PORT: Ray would try for minutes, and then end without a word."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise LaunchError(
            f"RAY_ADDRESS: expected a Ray cluster that answers, found none at {address} ({error}). Start it, or unset "
            f"RAY_ADDRESS: then training starts a Ray of its own."
        ) from error


def _apart(job: Job, module: str) -> None:
    """Run a launcher on the job's file, as a process in a session of its own.

    Launchers have their own ideas about signals, which reach them through the process group: Ray's servers die of a
    SIGTERM, torchrun kills its workers on Ctrl-C. Here this process alone gets signals, and asks for a checkpoint.
    """
    file, driver, directory = job.state / JOB_FILE, this_process(), job.state_directory
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(job.cfg.execution.threads),
        **launch_settings.missing(os.environ),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-m", module, str(file)]
    # Ray's sockets need a short path, and what it leaves there goes with the training however that ends.
    with tempfile.TemporaryDirectory(prefix="vla-", ignore_cleanup_errors=True) as scratch:
        artifacts.write_json(file, {"job": job.plain(), "driver": driver, "scratch": scratch})
        with subprocess.Popen(command, env=environment, start_new_session=True) as launcher:
            code = launcher.wait()
        with suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)  # servers of Ray that take their time
    if directory.done.is_file() or directory.preempted.is_file():
        return  # the workers have reached what was asked of them, however their launcher ended afterwards
    raise_failure(job, driver)
    if code:
        raise LaunchError(
            f"{job.cfg.execution.launcher}: expected its workers to finish, found exit code {code}. Its "
            f"own messages are above, those of the workers in {directory.logs}; 'dvc repro' continues from "
            f"the last checkpoint."
        )


def work(values: dict[str, Any], driver: Mapping[str, Any], context: distributed.Context) -> loop.Outcome:
    """A worker's whole life in a process of its own: it ends with the process that started it."""
    job = Job.parse(values, where="job")
    context.stop_file = job.state_directory.stop
    _end_with(driver, heartbeat=job.state_directory.heartbeat)
    try:
        with errors.place_errors_explained():
            return train(job, context, driver)
    except UserError as error:
        if not (isinstance(error, WorkerHungError) and job.cfg.execution.launcher == "ray"):
            record_failure(job, error, driver)  # of a hung worker Ray tells itself, after its last attempt
        raise


def train(job: Job, context: distributed.Context, driver: Mapping[str, Any] | None = None) -> loop.Outcome:
    """The training of one worker, which leaves in its log how it ended.

    Where a `driver` has started it from another process, all workers must see that one's file.
    """
    launch_settings.complete()
    rank, timeout = context.rank, job.cfg.execution.timeout
    with worker_log.kept(job.state_directory.logs, rank), distributed.peers_explained(rank, timeout=timeout):
        if driver is not None:
            context.check_all_see(job.state, seen=_sees(driver, job.state / JOB_FILE))
        return loop.train(job, context)


def _sees(driver: Mapping[str, Any], file: Path) -> bool:
    """Whether the job's file is there, and the one of this driver."""
    return file.is_file() and artifacts.read_json(file, made_by="vla train")["driver"] == driver


def this_process() -> dict[str, Any]:
    """How workers recognise the process that starts them."""
    pid, started = lifeline.identity()
    return {"host": socket.gethostname(), "pid": pid, "started": started}


def _end_with(driver: Mapping[str, Any], *, heartbeat: Path) -> None:
    """End this worker when its driver is gone: by its process id here, by its heartbeat from another machine."""
    if driver["host"] == socket.gethostname():
        lifeline.watch_process(driver["pid"], driver["started"])
    else:
        lifeline.watch_heartbeat(heartbeat, limit=HEARTBEAT_LIMIT_S)


def record_failure(job: Job, error: UserError, driver: Mapping[str, Any]) -> None:
    """Leave a user's error where `raise_failure` finds it: launchers turn exceptions into their own.

    The first one of a driver stays: what comes after it are its consequences.
    """
    if _failure(job, driver) is None:
        values = {"kind": type(error).__name__, "message": str(error), "driver": dict(driver)}
        artifacts.write_json(job.state_directory.failure, values)


def raise_failure(job: Job, driver: Mapping[str, Any]) -> None:
    """Raise the user error that a worker or launcher of `driver` has recorded, if one has."""
    if (values := _failure(job, driver)) is not None:
        raise getattr(errors, values["kind"])(values["message"])


def _failure(job: Job, driver: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was recorded for `driver`; a launcher of another one, killed before, may have left its own."""
    file = job.state_directory.failure
    if not file.is_file():
        return None
    values: dict[str, Any] = artifacts.read_json(file, made_by="vla train")
    return values if values["driver"] == driver else None
