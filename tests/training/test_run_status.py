"""What the MLflow run of a training says about how it ended."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from projects import train_paths, write_params

from vla.errors import DataError, Preempted
from vla.training import train


@pytest.fixture
def run(project, monkeypatch, tmp_path):
    """Runs stage train with changed parameters; returns its MLflow run."""
    subprocess.run(["git", "init", "-q", project], check=True)
    monkeypatch.chdir(project)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    def run(error: type[BaseException] | None, **changes):
        write_params(project, {name.replace("__", "."): value for name, value in changes.items()})
        cfg = train.Config.load(project / "params.yaml")
        if error is None:
            train.run(cfg, **train_paths(project))
        else:
            with pytest.raises(error):
                train.run(cfg, **train_paths(project))
        client = MlflowClient(uri)
        found, *_ = client.search_runs([client.get_experiment_by_name("toys").experiment_id])
        return found.info

    return run


def test_a_training_that_fails_has_a_failed_run(run):
    assert run(DataError, train__optimizer__lr=1e30).status == "FAILED"


def test_a_training_that_is_stopped_has_a_killed_run_which_its_resume_finishes(run, project):
    long = {"execution__checkpoint_every": 5000, "execution__validate_every": 5000, "execution__log_every": 1}

    def journals() -> set[Path]:
        return set((project / ".vla" / "state").glob("*/metrics.jsonl"))

    before = journals()

    def stop_soon() -> None:
        while journals() == before:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_soon).start()
    stopped = run(Preempted, train__steps=300, **long)
    assert stopped.status == "KILLED"
    finished = run(None, train__steps=300, **long)
    assert (finished.run_id, finished.status) == (stopped.run_id, "FINISHED")
