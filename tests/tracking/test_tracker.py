import json
import logging
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from stores import curve

from vla.errors import ConfigError, Preempted
from vla.tracking import store
from vla.tracking.journal import Journal
from vla.tracking.store import DatasetRecord
from vla.tracking.tracker import Tracker, TrackingConfig

CONFIG = TrackingConfig(experiment="robots", model="policy")
NOWHERE = "http://127.0.0.1:1"


def start(project: Path, **changes) -> Tracker:
    values = {
        "params": {"train.optimizer.lr": 0.001, "data.name": "toy"},
        "tags": {"mlflow.runName": "tiny_vla toy"},
        "dataset": DatasetRecord("toy", "d" * 64, "sim"),
        "journal": project / "metrics.jsonl",
        "state": project / "state",
        **changes,
    }
    return Tracker.start(CONFIG, **values)


def record(project: Path) -> dict:
    return json.loads((project / "state" / "sender.json").read_text())


def test_a_run_holds_params_tags_dataset_and_the_journal_when_the_block_ends(project, client):
    with Journal(project / "metrics.jsonl") as journal, start(project) as tracker:
        journal.append(1, {"loss": 2.0, "learning_rate": 0.1})
        journal.append(2, {"loss": 1.0})
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tiny_vla toy"
    assert run.data.params == {"train.optimizer.lr": "0.001", "data.name": "toy"}
    assert run.data.tags["dataset_digest"] == "d" * 64
    assert curve(client, tracker.run_id) == [(1, 2.0), (2, 1.0)]
    assert curve(client, tracker.run_id, "learning_rate") == [(1, 0.1)]
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("toy", "d" * 36)
    assert tracker.record() == {
        "run_id": tracker.run_id,
        "tracking_uri": f"sqlite:///{project}/mlflow.db",
        "experiment": "robots",
    }


def test_artifacts_of_a_store_without_a_server_lie_in_the_project(project, client):
    with start(project) as tracker:
        pass
    assert client.get_run(tracker.run_id).info.artifact_uri.startswith((project / "mlruns" / "robots").as_uri())


@pytest.mark.parametrize(
    ("error", "status"),
    [(Preempted("stop"), "KILLED"), (KeyboardInterrupt(), "KILLED"), (ConfigError("bad"), "FAILED")],
)
def test_the_way_training_ends_is_the_status_of_the_run(project, client, error, status):
    with pytest.raises(type(error)), start(project) as tracker:
        raise error
    assert client.get_run(tracker.run_id).info.status == status


def test_a_resumed_training_goes_on_in_its_run_and_sends_no_step_twice(project, client):
    with Journal(project / "metrics.jsonl") as journal, start(project) as first:
        for step in (1, 2, 3, 4):
            journal.append(step, {"loss": float(step)})
        first.close("KILLED")
    with Journal(project / "metrics.jsonl") as journal:
        journal.truncate_after(2)
        with start(project, tags={"mlflow.runName": "resumed"}) as second:
            assert second.run_id == first.run_id
            for step in (3, 4, 5):
                journal.append(step, {"loss": float(step)})
    assert curve(client, first.run_id) == [(step, float(step)) for step in (1, 2, 3, 4, 5)]
    run = client.get_run(first.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "resumed")
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_metrics_of_one_step_in_two_rows_are_both_sent(project, client):
    with Journal(project / "metrics.jsonl") as journal, start(project) as tracker:
        journal.append(5, {"loss": 1.0})
        tracker.close("KILLED")
    with Journal(project / "metrics.jsonl") as journal, start(project):
        journal.append(5, {"validation_loss": 2.0})
    assert curve(client, tracker.run_id) == [(5, 1.0)]
    assert curve(client, tracker.run_id, "validation_loss") == [(5, 2.0)]


def test_more_metrics_than_one_call_takes_arrive_whole(project, client):
    with Journal(project / "metrics.jsonl") as journal:
        journal.append(1, {f"m{index}": float(index) for index in range(store.METRICS_PER_CALL + 5)})
        with start(project) as tracker:
            pass
    assert len(client.get_run(tracker.run_id).data.metrics) == store.METRICS_PER_CALL + 5


def test_a_long_parameter_is_cut_to_what_every_server_stores(project, client):
    with start(project, params={"long": "x" * 501, "fits": "y" * 500}) as tracker:
        pass
    params = client.get_run(tracker.run_id).data.params
    assert params == {"long": "x" * 497 + "...", "fits": "y" * 500}


def test_a_run_inside_an_experiment_names_it(project, client, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "rusty-lamp")
    with start(project) as tracker:
        pass
    assert client.get_run(tracker.run_id).data.tags["dvc_experiment"] == "rusty-lamp"


def test_a_run_that_the_store_does_not_know_is_made_anew_with_the_whole_curve(project, client):
    with Journal(project / "metrics.jsonl") as journal, start(project) as first:
        journal.append(1, {"loss": 1.0})
    client.delete_run(first.run_id)
    with start(project) as second:
        pass
    assert second.run_id != first.run_id
    assert curve(client, second.run_id) == [(1, 1.0)]


def test_a_run_whose_creation_was_not_noted_is_found_by_its_token(project, client):
    with start(project) as first:
        pass
    lost = {**record(project), "run_id": None, "described": False}
    (project / "state" / "sender.json").write_text(json.dumps(lost))
    with start(project) as second:
        pass
    assert second.run_id == first.run_id


def test_another_experiment_or_store_gets_its_own_run(project, client):
    with start(project) as first:
        pass
    other = TrackingConfig(experiment="other", model="policy")
    with Tracker.start(
        other,
        journal=project / "metrics.jsonl",
        state=project / "state",
        params={},
        tags={},
        dataset=DatasetRecord("toy", "d", "sim"),
    ) as second:
        pass
    assert second.run_id != first.run_id


def test_a_dead_server_neither_stops_nor_slows_training_and_is_reported_once(project, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), Journal(project / "metrics.jsonl") as journal, start(project) as tracker:
        for step in range(100):
            journal.append(step, {"loss": 1.0})
        appended = time.monotonic() - began
        time.sleep(0.5)
    assert appended < 0.5
    assert time.monotonic() - began < 5.0
    assert tracker.run_id is None
    assert tracker.record()["run_id"] is None
    silent, incomplete = caplog.messages
    assert f"{NOWHERE}: the tracking server does not answer" in silent
    assert "journal" in incomplete
    assert record(project)["status"] == "FINISHED"


def test_a_server_that_comes_back_gets_everything(project, client, monkeypatch, caplog):
    (project / "mlflow.db").rename(project / "away.db")
    (project / "mlflow.db").mkdir()
    monkeypatch.setattr("vla.tracking.tracker.POLL_SECONDS", 0.05)
    with caplog.at_level(logging.WARNING), Journal(project / "metrics.jsonl") as journal, start(project) as tracker:
        journal.append(1, {"loss": 1.0})
        wait_for(lambda: "does not answer" in caplog.text)
        (project / "mlflow.db").rmdir()
        (project / "away.db").rename(project / "mlflow.db")
        wait_for(lambda: "answers again" in caplog.text)
        journal.append(2, {"loss": 2.0})
    assert curve(client, tracker.run_id) == [(1, 1.0), (2, 2.0)]
    assert len(caplog.messages) == 2


def test_a_disk_that_does_not_take_the_record_of_what_was_sent_is_waited_for(project, client, monkeypatch, caplog):
    (project / "state" / "sender.json").mkdir(parents=True)
    monkeypatch.setattr("vla.tracking.tracker.POLL_SECONDS", 0.05)
    with caplog.at_level(logging.WARNING), Journal(project / "metrics.jsonl") as journal, start(project) as tracker:
        journal.append(1, {"loss": 1.0})
        wait_for(lambda: "Is a directory" in caplog.text)
        (project / "state" / "sender.json").rmdir()
        wait_for(lambda: "answers again" in caplog.text)
    assert curve(client, tracker.run_id) == [(1, 1.0)]
    assert len(client.search_runs([client.get_run(tracker.run_id).info.experiment_id])) == 1


def test_a_run_ends_as_its_training_did_even_when_the_disk_takes_no_record_of_it(project, client, monkeypatch):
    monkeypatch.setattr("vla.tracking.tracker.POLL_SECONDS", 0.05)
    file = project / "state" / "sender.json"
    tracker = start(project)
    wait_for(lambda: file.is_file() and record(project)["described"])
    file.unlink()
    file.mkdir()
    assert not tracker.close("FAILED", timeout=0.3)
    assert client.get_run(tracker.run_id).info.status == "FAILED"
    file.rmdir()


def test_a_lost_answer_to_any_request_changes_nothing_in_the_end(project, client, monkeypatch):
    lost: set[str] = set()

    def losing(name):
        request = getattr(MlflowClient, name)

        def wrapped(*args, **keywords):
            answer = request(*args, **keywords)
            if name in lost:
                return answer
            lost.add(name)
            raise MlflowException(f"the answer to {name} was lost")

        return wrapped

    requests = {"create_experiment", "create_run", "log_batch", "log_inputs", "set_terminated"}
    for name in requests:
        monkeypatch.setattr(MlflowClient, name, losing(name))
    monkeypatch.setattr("vla.tracking.tracker.POLL_SECONDS", 0.01)
    with Journal(project / "metrics.jsonl") as journal, start(project):
        journal.append(1, {"loss": 1.0})
        journal.append(2, {"loss": 2.0})
    assert lost == requests
    (run,) = client.search_runs([client.get_experiment_by_name("robots").experiment_id])
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == 2
    assert curve(client, run.info.run_id) == [(1, 1.0), (2, 2.0)]
    assert len(run.inputs.dataset_inputs) == 1


def wait_for(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
