"""The tracking store: which one it is, a client for it, and sending params, metrics and datasets in few calls.

The store is the server of MLFLOW_TRACKING_URI or, without it, `mlflow.db` with the folder `mlruns` in the main
checkout, also for a stage that runs in an experiment's temporary workspace. Every call names its run: mlflow's "active
run" is never used, because it is global to the process and ends up FINISHED when the process crashes.
"""

import fcntl
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from alembic.util import CommandError
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from vla import artifacts, workspace
from vla.errors import TrackingError
from vla.tracking.journal import Row

for _name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
    # They log at length what is then raised.
    logging.getLogger(_name).setLevel(logging.CRITICAL)

SERVER_ERRORS = (MlflowException, RequestException, SQLAlchemyError, CommandError)
"""What a dead, slow or refusing store raises."""
METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100
"""Limits of mlflow's log_batch."""
UPLOAD_SECONDS = 600
LONGEST_VALUE = 500
"""Param values are cut to this, which every server version stores; `params.json` of the run has them whole."""
LONGEST_DIGEST = 36
"""Of a dataset's digest in mlflow; the tag `dataset_digest` has it whole."""


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """The dataset that a run was trained on."""

    name: str
    digest: str
    source: str
    """Where it came from, in a few words or as a URI."""


def tracking_uri() -> str:
    """URI of the store; a relative sqlite path of the user counts from the main checkout."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    prefix, separator, path = uri.partition("sqlite:///")
    if separator and not prefix and not path.startswith("/"):
        return f"sqlite:///{workspace.main_checkout() / path}"
    return uri


def public_uri(uri: str) -> str:
    """The URI without user name and password, for files and messages."""
    parts = urlsplit(uri)
    return uri.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1) if "@" in parts.netloc else uri


def connect(uri: str) -> MlflowClient:
    """A client; the first one of an sqlite store creates the database, one process at a time."""
    if not uri.startswith("sqlite"):
        return MlflowClient(uri)
    database = Path(uri.removeprefix("sqlite:///"))
    with locked("mlflow"):
        if database.is_absolute() and not database.exists():
            # A process that is killed while it makes the tables would leave a database that never opens again.
            with artifacts.new_file(database) as partial:
                MlflowClient(f"sqlite:///{partial}")
        return MlflowClient(uri)


def experiment_id(client: MlflowClient, name: str) -> str:
    """Id of the experiment, created when there is none; without a server its artifacts lie in `mlruns`."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    folder = (workspace.main_checkout() / "mlruns" / quote(name, safe=" ")).as_uri()
    try:
        return str(client.create_experiment(name, None if client.tracking_uri.startswith("http") else folder))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return experiment_id(client, name)  # another process was faster


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    """Add flat params; a run's params never change, so equal ones may be sent again and different ones raise."""
    entities = [Param(name, _cut(str(value))) for name, value in sorted(params.items())]
    for start in range(0, len(entities), PARAMS_PER_CALL):
        client.log_batch(run_id, params=entities[start : start + PARAMS_PER_CALL])


def points(rows: Iterable[Row], *, start_time: int) -> list[Metric]:
    """The rows' metrics as mlflow's points.

    A point's time is the run's start (milliseconds) plus the row's seconds: sent twice it is equal, and mlflow keeps
    one of the two.
    """
    return [
        Metric(name, value, start_time + round(row.seconds * 1000), row.step)
        for row in rows
        for name, value in row.metrics.items()
    ]


def in_calls(metrics: Sequence[Metric]) -> Iterator[Sequence[Metric]]:
    """Points in as few log_batch calls as mlflow allows."""
    for start in range(0, len(metrics), METRICS_PER_CALL):
        yield metrics[start : start + METRICS_PER_CALL]


def log_dataset(client: MlflowClient, run_id: str, dataset: DatasetRecord) -> None:
    """Record the training data as an input of the run."""
    entity = Dataset(dataset.name, dataset.digest[:LONGEST_DIGEST], source_type="local", source=dataset.source)
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])


@contextmanager
def patient() -> Iterator[None]:
    """Wait for minutes instead of seconds in the block: a server answers an upload when it has stored the file."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ[name]
    os.environ[name] = str(max(int(before), UPLOAD_SECONDS))
    try:
        yield
    finally:
        os.environ[name] = before


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock file `<name>.lock` of the local store; other processes of this machine wait."""
    folder = workspace.local_store()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def answering(uri: str, *, then: str) -> Iterator[None]:
    """Turn what a dead or refusing store raises into one TrackingError; `then` says what to do about it."""
    try:
        yield
    except SERVER_ERRORS as error:
        raise TrackingError(
            f"{public_uri(uri)}: expected the tracking store to answer, found: {first_line(error)}. {then}"
        ) from error


def first_line(error: BaseException) -> str:
    """The message of an error on one line, shortened, without credentials that a URI in it may have."""
    text = re.sub(r"//[^/@\s]*@", "//", (str(error).splitlines() or [type(error).__name__])[0])
    return text if len(text) <= 200 else f"{text[:90]} ... {text[-100:]}"  # the cause is at the end


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
