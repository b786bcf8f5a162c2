"""A tracking store in a test's folder, copied from one that is made once: creating a database takes seconds."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from vla.tracking import store


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sqlite file with mlflow's tables and nothing else."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    client = MlflowClient(f"sqlite:///{path}")
    client.search_registered_models()
    return path


@pytest.fixture
def project(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder, the working directory, with an empty tracking store."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def client(project: Path) -> MlflowClient:
    return store.connect(store.tracking_uri())


def curve(client: MlflowClient, run_id: str, name: str = "loss") -> list[tuple[int, float]]:
    """The points of a metric as (step, value)."""
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
