import json
from pathlib import Path

import pytest
from outcomes import CONFIG

from vla import artifacts
from vla.errors import CheckpointError
from vla.registration.stale import close_stale_runs
from vla.tracking import store
from vla.tracking.journal import Journal
from vla.tracking.store import DatasetRecord
from vla.tracking.tracker import Tracker
from vla.training import begin
from vla.training.state_directory import Identity, StateDirectory


@pytest.fixture
def state(project: Path) -> StateDirectory:
    folder = project / ".vla" / "state" / "fingerprint"
    artifacts.write_json(folder / "state.json", {"work": "w", "code": "c"})
    return StateDirectory(folder)


def killed_training(client, state: StateDirectory) -> str:
    """Id of a run that a process left RUNNING."""
    with (
        Journal(state.journal) as journal,
        Tracker.start(
            CONFIG.tracking,
            journal=journal.path,
            state=state.path,
            params={},
            tags={},
            dataset=DatasetRecord("toy", "d", "sim"),
        ) as tracker,
    ):
        journal.append(1, {"loss": 1.0})
    note(state, status=None)
    client.update_run(tracker.run_id, "RUNNING")
    return str(tracker.run_id)


def note(state: StateDirectory, **changes) -> None:
    path = state.path / "sender.json"
    artifacts.write_json(path, {**json.loads(path.read_text()), **changes})


def test_a_run_that_nobody_trains_any_more_is_closed_as_killed(client, state):
    run_id = killed_training(client, state)
    assert close_stale_runs(client, store.tracking_uri()) == [run_id]
    assert client.get_run(run_id).info.status == "KILLED"
    assert close_stale_runs(client, store.tracking_uri()) == []


def test_a_run_whose_end_the_server_did_not_hear_ends_as_noted(client, state):
    run_id = killed_training(client, state)
    note(state, status="FAILED")
    close_stale_runs(client, store.tracking_uri())
    assert client.get_run(run_id).info.status == "FAILED"


def test_a_run_that_trains_is_left_alone(client, state):
    run_id = killed_training(client, state)
    with state.hold("driver"):
        assert close_stale_runs(client, store.tracking_uri()) == []
    assert client.get_run(run_id).info.status == "RUNNING"


@pytest.mark.parametrize("changes", [{"tracking_uri": "http://elsewhere"}, {"run_id": "0" * 32}, {"run_id": None}])
def test_runs_that_this_store_does_not_have_are_left_alone(client, state, changes):
    killed_training(client, state)
    note(state, **changes)
    assert close_stale_runs(client, store.tracking_uri()) == []


def test_a_training_that_is_overwritten_leaves_no_open_run(project, client):
    identity = Identity(params={}, inputs={}, code="c")
    state = begin.find_state(project / ".vla" / "state", identity)
    run_id = killed_training(client, state)
    begin.overwrite(state.path.parent, identity)
    assert not state.path.exists()
    assert client.get_run(run_id).info.status == "KILLED"


def test_the_run_of_a_training_in_progress_is_left_open_by_who_would_overwrite_it(project, client):
    identity = Identity(params={}, inputs={}, code="c")
    state = begin.find_state(project / ".vla" / "state", identity)
    run_id = killed_training(client, state)
    with state.hold("driver"), pytest.raises(CheckpointError, match="found one held by"):
        begin.overwrite(state.path.parent, identity)
    assert client.get_run(run_id).info.status == "RUNNING"
