"""Sends one training run's journal to the tracking store: each point once, whatever is killed in between.

What has been sent is kept in `sender.json` of the training state's folder, so that a resumed training goes on in the
same run. A point is known by its name and step: a resume from an earlier checkpoint writes the same steps to the
journal again, and they are not sent again.
"""

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException

from vla import artifacts
from vla.tracking import store
from vla.tracking.journal import Tail
from vla.tracking.store import DatasetRecord

FILE_NAME = "sender.json"
Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run ends: complete, crashed, stopped from outside (pruned, preempted, interrupted)."""


@dataclass(slots=True)
class Sent:
    """Contents of `sender.json`."""

    tracking_uri: str
    """As it may be shown: without credentials."""
    experiment: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tag of the run, so that one that was created while we lost the answer is found instead of made twice."""
    run_id: str | None = None
    described: bool = False
    """Params and dataset are recorded."""
    last_step: dict[str, int] = field(default_factory=dict)
    """Metric name -> last step sent."""
    status: Status | None = None
    """How the run should end; None while it trains."""

    @classmethod
    def read(cls, path: Path, *, uri: str, experiment: str) -> Self:
        """The record at `path`; a new one when there is none or when it belongs to another store or experiment."""
        fresh = cls(store.public_uri(uri), experiment)
        if not path.is_file():
            return fresh
        found = cls(**artifacts.read_json(path, made_by="dvc repro train"))
        return found if (found.tracking_uri, found.experiment) == (fresh.tracking_uri, experiment) else fresh

    def write(self, path: Path) -> None:
        artifacts.write_json(path, asdict(self))


@dataclass(frozen=True, slots=True)
class Description:
    """What a run's page says beside the curves."""

    params: Mapping[str, Any]
    """Flat: dotted name -> value."""
    tags: Mapping[str, str]
    dataset: DatasetRecord


class Sender:
    """Synchronous and resumable: every method raises one of `store.SERVER_ERRORS` and may then be called again."""

    def __init__(self, uri: str, experiment: str, *, journal: Path, state: Path, description: Description) -> None:
        self._uri = uri
        self._path = state / FILE_NAME
        self._description = description
        self._tail = Tail(journal)
        self._client: MlflowClient | None = None
        self._start_time = 0
        self._unsent: list[Metric] = []
        self.sent = Sent.read(self._path, uri=uri, experiment=experiment)
        self.sent.status = None

    def send(self) -> None:
        """Open the run where that is still to do, then send the journal's new rows."""
        client = self._open()
        self._unsent += store.points(self._tail.new_rows(), start_time=self._start_time)
        last = self.sent.last_step
        new = [point for point in self._unsent if point.step > last.get(point.key, -1)]
        for points in store.in_calls(new):
            client.log_batch(self._run_id(), metrics=points)
            last.update({point.key: point.step for point in points})
            self.sent.write(self._path)
        self._unsent = []

    def finish(self, status: Status) -> None:
        """Send what is left and end the run; raises OSError after that when the disk does not take the record of it."""
        try:
            self.note(status)
            self.send()
        except OSError:
            if self.sent.run_id is not None:
                store.connect(self._uri).set_terminated(self.sent.run_id, status)
            raise
        self._open().set_terminated(self._run_id(), status)

    def note(self, status: Status) -> None:
        """Record how the run should end, for whoever closes it when this process cannot."""
        self.sent.status = status
        self.sent.write(self._path)

    def _run_id(self) -> str:
        if self.sent.run_id is None:
            raise AssertionError("a run is open before anything is sent to it")
        return self.sent.run_id

    def _open(self) -> MlflowClient:
        """The client, once the run is open and described."""
        if self._client is not None:
            return self._client
        client = store.connect(self._uri)
        experiment = store.experiment_id(client, self.sent.experiment)
        self.sent.write(self._path)  # the token, before a run carries it
        run = self._reopened(client) or self._created(client, experiment)
        self.sent.run_id, self._start_time = run.info.run_id, run.info.start_time
        self.sent.write(self._path)
        if not self.sent.described:
            store.log_params(client, self._run_id(), self._description.params)
            store.log_dataset(client, self._run_id(), self._description.dataset)
            self.sent.described = True
            self.sent.write(self._path)
        self._client = client
        return client

    def _reopened(self, client: MlflowClient) -> Any:
        """The run of an earlier process, RUNNING again and with today's tags; None when the store does not know it."""
        if self.sent.run_id is None:
            return None
        try:
            run = client.get_run(self.sent.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            self.sent = Sent(self.sent.tracking_uri, self.sent.experiment, status=self.sent.status)
            return None
        client.update_run(run.info.run_id, "RUNNING")
        client.log_batch(run.info.run_id, tags=[RunTag(*tag) for tag in self._tags().items()])
        return run

    def _created(self, client: MlflowClient, experiment: str) -> Any:
        lost = client.search_runs([experiment], f"tags.sender = '{self.sent.token}'", max_results=1)
        return lost[0] if lost else client.create_run(experiment, tags=self._tags())

    def _tags(self) -> dict[str, str]:
        dataset = self._description.dataset
        return {**self._description.tags, "dataset_digest": dataset.digest, "sender": self.sent.token}


def close_left_open(state: Path, client: MlflowClient, uri: str) -> str | None:
    """End the run of a training that no process works on if it says RUNNING; returns its id if it did.

    A run ends as its training noted, else KILLED. A resumed training sets its run to RUNNING again.
    """
    path = state / FILE_NAME
    if not path.is_file():
        return None
    sent = Sent(**artifacts.read_json(path, made_by="dvc repro train"))
    if sent.run_id is None or sent.tracking_uri != store.public_uri(uri):
        return None
    try:
        run = client.get_run(sent.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    if run.info.status != "RUNNING" or run.info.lifecycle_stage != "active":
        return None
    client.set_terminated(sent.run_id, sent.status or "KILLED")
    return sent.run_id
