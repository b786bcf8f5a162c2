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


@contextmanager
def serving(project: Path, port: int) -> Iterator[str]:
    """A server on the project's database, stopped when the block ends."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{project}/mlflow.db", "--artifacts-destination", f"{project}/kept"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (project / "server.log").open("ab") as log:
        server = subprocess.Popen([*command, *stores], env=environment, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not answers(uri):
            assert time.monotonic() < deadline, (project / "server.log").read_text()
            time.sleep(0.2)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


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
        with serving(project, port) as uri:
            wait_until(lambda: "answers again" in caplog.text)
            assert tracker.close("FINISHED")
            client = MlflowClient(uri)
            assert curve(client, str(tracker.run_id)) == [(1, 2.0), (2, 1.0)]
            record = registered(outcome(project / "outputs", run_id=tracker.run_id))
            assert record["run_id"] == tracker.run_id
            assert registered(outcome(project / "better", seed=1, success=0.9))["champion"]
            assert (project / "kept").is_dir()


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
