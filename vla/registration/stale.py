"""Runs that still say RUNNING although nothing trains them: killed processes, and ends that the server did not hear."""

from mlflow import MlflowClient

from vla import workspace
from vla.tracking import sender
from vla.training.state_directory import StateDirectory


def close_stale_runs(client: MlflowClient, uri: str) -> list[str]:
    """End the runs of training states that no process holds; returns their ids."""
    states = [state for state in StateDirectory.all(workspace.local_store() / "state") if state.is_free()]
    closed = [sender.close_left_open(state.path, client, uri) for state in states]
    return [run_id for run_id in closed if run_id is not None]
