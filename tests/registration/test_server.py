"""The same through a real server, which stores artifacts on its side and can go away."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from outcomes import CONFIG, outcome, registered
from stores import curve

from vla.tracking.journal import Journal
from vla.tracking.store import DatasetRecord
from vla.tracking.tracker import Tracker


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """A server in a process group of its own."""

    uri: str
    process: "subprocess.Popen[bytes]"

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)


@contextmanager
def serving(project: Path, port: int) -> Iterator[Server]:
    """A server on the project's database, stopped when the block ends."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{project}/mlflow.db", "--artifacts-destination", f"{project}/kept"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (project / "server.log").open("ab") as log:
        process = subprocess.Popen([*command, *stores], env=environment, stdout=log, stderr=log, start_new_session=True)
    server = Server(f"http://127.0.0.1:{port}", process)
    try:
        deadline = time.monotonic() + 120
        while not answers(server.uri):
            assert time.monotonic() < deadline, (project / "server.log").read_text()
            time.sleep(0.2)
        yield server
    finally:
        if process.poll() is None:
            server.signal(signal.SIGTERM)
        process.wait()


def answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_training_survives_an_outage_and_its_policy_is_registered_through_the_server(project, monkeypatch, caplog):
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("vla.tracking.tracker.POLL_SECONDS", 0.2)
    with Journal(project / "state" / "metrics.jsonl") as journal:
        with serving(project, port):
            tracker = Tracker.start(
                CONFIG.tracking,
                journal=journal.path,
                state=project / "state",
                params={"data.name": "toy"},
                tags={},
                dataset=DatasetRecord("toy", "dataset-digest", "sim"),
            )
            journal.append(1, {"loss": 2.0})
            wait_until(lambda: tracker.run_id is not None)
        journal.append(2, {"loss": 1.0})
        wait_until(lambda: "does not answer" in caplog.text)
        with serving(project, port) as server:
            wait_until(lambda: "answers again" in caplog.text)
            assert tracker.close("FINISHED")
            client = MlflowClient(server.uri)
            assert curve(client, str(tracker.run_id)) == [(1, 2.0), (2, 1.0)]
            record = registered(outcome(project / "outputs", run_id=tracker.run_id))
            assert record["run_id"] == tracker.run_id
            assert registered(outcome(project / "better", seed=1, success=0.9))["champion"]
            assert (project / "kept").is_dir()


@pytest.mark.slow
def test_a_server_that_hangs_and_is_killed_gets_every_point_once_and_costs_training_nothing(project, monkeypatch):
    port, longest = free_port(), 0.0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr("vla.tracking.tracker.POLL_SECONDS", 0.05)
    with Journal(project / "state" / "metrics.jsonl") as journal:
        tracker = Tracker.start(
            CONFIG.tracking,
            journal=journal.path,
            state=project / "state",
            params={},
            tags={},
            dataset=DatasetRecord("toy", "dataset-digest", "sim"),
        )

        def train(steps: range) -> None:
            nonlocal longest
            for step in steps:
                began = time.perf_counter()
                journal.append(step, {"loss": float(step), "lr": 0.1})
                longest = max(longest, time.perf_counter() - began)
                time.sleep(0.01)

        train(range(100))  # before the server is there
        with serving(project, port) as server:
            wait_until(lambda: tracker.run_id is not None)
            train(range(100, 200))
            server.signal(signal.SIGSTOP)
            train(range(200, 400))
            server.signal(signal.SIGCONT)
            train(range(400, 500))
            server.signal(signal.SIGKILL)  # between or within two of the calls that come all the time
        train(range(500, 600))
        with serving(project, port) as server:
            client = MlflowClient(server.uri)
            wait_until(lambda: len(curve(client, str(tracker.run_id))) == 600)
            assert tracker.close("FINISHED", timeout=60)
            assert curve(client, str(tracker.run_id)) == [(step, float(step)) for step in range(600)]
            assert client.get_run(str(tracker.run_id)).info.status == "FINISHED"
    assert longest < 1.0, "an append has waited for the server"


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
