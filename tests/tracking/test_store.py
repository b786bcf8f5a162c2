import os
import subprocess
import sys

import pytest

from vla.errors import TrackingError
from vla.tracking import store


def test_without_a_server_the_store_is_a_file_of_the_main_checkout(project):
    assert store.tracking_uri() == f"sqlite:///{project}/mlflow.db"


def test_a_worktree_uses_the_store_of_the_main_checkout(project, tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(project)]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"], ["worktree", "add", "-q", "trial"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.chdir(project / "trial")
    assert store.tracking_uri() == f"sqlite:///{project}/mlflow.db"


@pytest.mark.parametrize("uri", ["http://server:5000", "sqlite:////shared/mlflow.db", "postgresql://host/db"])
def test_a_server_or_absolute_path_of_the_user_is_taken_as_it_is(project, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert store.tracking_uri() == uri


def test_a_relative_path_of_the_user_counts_from_the_main_checkout(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///folder/runs.db")
    assert store.tracking_uri() == f"sqlite:///{project}/folder/runs.db"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://name:secret@server/path", "https://server/path"),
        ("https://server/path", "https://server/path"),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
    ],
)
def test_credentials_of_a_uri_are_not_shown(uri, shown):
    assert store.public_uri(uri) == shown


def test_an_error_of_the_store_becomes_one_message_without_credentials():
    with (
        pytest.raises(
            TrackingError, match=r"^http://server: expected .*, found: GET http://server/x failed\. Do this\.$"
        ),
        store.answering("http://me:secret@server", then="Do this."),
    ):
        raise store.MlflowException("GET http://me:secret@server/x failed\nand more")


def test_an_experiment_is_made_once_whatever_its_name(project, client):
    name = "it's a / strange: name"
    made = store.experiment_id(client, name)
    assert store.experiment_id(client, name) == made
    client.log_text(client.create_run(made).info.run_id, "text", "file.txt")
    (written,) = (project / "mlruns").rglob("file.txt")
    assert written.read_text() == "text"


def test_processes_that_start_together_make_one_database(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code = "from vla.tracking import store; store.experiment_id(store.connect(store.tracking_uri()), 'robots')"
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    client = store.connect(f"sqlite:///{tmp_path}/mlflow.db")
    assert {found.name for found in client.search_experiments()} == {"Default", "robots"}


def test_a_process_that_is_killed_while_it_makes_the_database_leaves_none(tmp_path):
    code = (
        "import os, signal, sys; from mlflow.store.tracking import sqlalchemy_store as s;"
        "from vla.tracking import store;"
        "s.SqlAlchemyStore._get_or_create_default_experiment = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "s.SqlAlchemyStore._create_default_experiment = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "store.connect('sqlite:///' + sys.argv[1])"
    )
    database = tmp_path / "mlflow.db"
    killed = subprocess.run([sys.executable, "-c", code, str(database)], cwd=tmp_path, check=False)
    assert killed.returncode == -9
    assert not database.exists()
    assert store.connect(f"sqlite:///{database}").search_experiments()


def test_uploads_are_waited_for_longer_than_requests(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    with store.patient():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "600"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "5"
