"""Runs that still say RUNNING although nothing trains them: killed processes, and ends that the server did not hear."""

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from vla import artifacts, workspace
from vla.tracking import sender, store
from vla.training.state_directory import StateDirectory


def close_stale_runs(client: MlflowClient, uri: str) -> list[str]:
    """End the runs of training states that no process holds; returns their ids.

    A run ends as its training noted, else KILLED. A resumed training sets its run to RUNNING again.
    """
    closed = []
    for state in StateDirectory.all(workspace.local_store() / "state"):
        path = state.path / sender.FILE_NAME
        if not path.is_file() or not state.is_free():
            continue
        sent = sender.Sent(**artifacts.read_json(path, made_by="dvc repro train"))
        if sent.run_id is None or sent.tracking_uri != store.public_uri(uri):
            continue
        try:
            run = client.get_run(sent.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            continue
        if run.info.status == "RUNNING" and run.info.lifecycle_stage == "active":
            client.set_terminated(sent.run_id, sent.status or "KILLED")
            closed.append(sent.run_id)
    return closed
