"""`python -m vla.training.launch_torchrun JOB`: training under torchrun on this machine, for a process that waits.

The port at which the workers meet is a free one, unless MASTER_PORT names it.
"""

import errno
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from vla import lifeline
from vla.errors import LaunchError, UserError
from vla.training import launch, lost_worker
from vla.training.job import Job


def main() -> int:
    """Run the job; returns the exit code. A user's error is left for the process that waits."""
    file = Path(sys.argv[1])
    values = json.loads(file.read_text())
    driver = values["driver"]
    lifeline.watch_process(driver["pid"], driver["started"], whole_group=True)
    job = Job.parse(values["job"], where="job")
    try:
        words = [*meeting_place(os.environ), f"--nproc-per-node={job.cfg.execution.workers}"]
        torchrun.run(torchrun.parse_args([*words, "-m", "vla.training.worker", str(file)]))
    except UserError as error:
        launch.record_failure(job, error, driver)
        return 2
    except ChildFailedError as error:
        if not lifeline.lives(driver["pid"], driver["started"]):
            return 1  # the workers have ended with it, and nobody asks why
        rank, failure = first_to_fail(error.failures)
        logs = str(job.state_directory.logs)
        launch.record_failure(job, LaunchError(lost_worker.explained(rank, failure.exitcode, logs=logs)), driver)
        return 2
    except SignalException as signalled:
        # A cluster's scheduler signals every process: torchrun has passed it on and waited 30 s for a checkpoint.
        return 0 if job.state_directory.preempted.is_file() else 128 + signalled.sigval
    return 0


def meeting_place(environment: Mapping[str, str]) -> list[str]:
    """Flags of torchrun for MASTER_ADDR and MASTER_PORT, or for a port that it finds itself.

    Raises LaunchError when the port cannot be taken: torchrun's workers would wait for it for a long time.
    """
    if "MASTER_PORT" not in environment:
        return ["--standalone"]
    address, port = environment.get("MASTER_ADDR", "localhost"), environment["MASTER_PORT"]
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise LaunchError(f"MASTER_PORT: expected a port from 1 to 65535, found {port!r}. Correct or unset it.")
    _check_free(address, int(port))
    return [f"--master-addr={address}", f"--master-port={port}"]


def _check_free(address: str, port: int) -> None:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise LaunchError(
                f"MASTER_PORT: expected a free port, found {port} taken by {_owner(port)}. Choose another one, "
                f"or unset it: then a free one is found."
            ) from error
        raise LaunchError(
            f"MASTER_ADDR, MASTER_PORT: expected a port that this machine can open, found {address}:{port} "
            f"({error.strerror or error}). Unset both; for several machines start torchrun yourself (docs/training.md)."
        ) from error


def _owner(port: int) -> str:
    """The process that listens there, as far as the system tells this user."""
    for found in psutil.net_connections(kind="tcp"):
        if found.status == psutil.CONN_LISTEN and found.laddr.port == port and found.pid:
            process = psutil.Process(found.pid)
            return f"process {found.pid} ({process.name()}) of {process.username()}"
    return f"a process of another user ('sudo ss -ltnp sport = :{port}' says whose)"


def first_to_fail(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """The rank that caused the end: torchrun itself ends the others by SIGTERM."""
    ranks = [rank for rank, failure in failures.items() if failure.exitcode != -15]
    return min(((rank, failures[rank]) for rank in ranks or failures), key=lambda found: _blame(*found))


def _blame(rank: int, failure: ProcessFailure) -> tuple[bool, int]:
    """Those ended by a signal come first: ranks that lose a peer end by themselves."""
    return failure.exitcode > 0, rank


if __name__ == "__main__":
    raise SystemExit(main())
