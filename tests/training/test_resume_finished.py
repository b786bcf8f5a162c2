"""A training that is done is not repeated: what it made is exported again, and made again where it was damaged."""

import logging
import subprocess

import forks
import pytest
from projects import train_paths, write_params
from trainings import TORCHRUN, TWO_WORKERS, digest_of_weights, finish, forget_states, start, weights

from vla.training import train


@pytest.fixture
def export(project, monkeypatch):
    """Runs the stage in this process with the outputs in a folder of the project."""
    subprocess.run(["git", "init", "-q", project], check=True)
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    forget_states(project)
    write_params(project, {"train.steps": 4})
    return lambda out: train.run(train.Config.load(project / "params.yaml"), **train_paths(project, out))


def test_a_finished_training_is_exported_again_in_place_of_being_repeated(project, export):
    export("first")
    journal = next((project / ".vla" / "state").glob("*/metrics.jsonl"))
    written = journal.stat().st_mtime_ns
    export("second")
    assert weights(project, "first") == weights(project, "second")
    assert journal.stat().st_mtime_ns == written


def test_a_result_that_was_damaged_after_the_training_is_made_again(project, export, caplog):
    export("kept")
    made = next((project / ".vla" / "state").glob("*/bundle/model.safetensors"))
    content = bytearray(made.read_bytes())
    content[-1] ^= 1
    made.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        export("again")
    assert "found a damaged one. Making it again" in caplog.text
    assert weights(project, "again") == weights(project, "kept")


@pytest.mark.slow
def test_under_torchrun_each_process_is_the_stage(make_job, project):
    ranks = make_job("ranks", **{name.replace(".", "__"): value for name, value in TWO_WORKERS.items()})
    forks.finish(ranks, world=2)
    forget_states(project)
    write_params(project, TWO_WORKERS)
    for out in ("direct", "finished"):
        finish(start(project, out, launcher=TORCHRUN))
        assert weights(project, out) == digest_of_weights(ranks.state_directory.bundle)
    assert train_paths(project, "direct")["metrics"].is_file()
