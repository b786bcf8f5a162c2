"""Bringing files and figures into one MLflow run, each once."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag

from vla import artifacts
from vla.tracking import store

Figure = tuple[str, int, float]
"""Metric name, step, value."""
TAG = "published"


class Publication:
    """A run that is being made equal to files.

    The tag `published` holds a digest for everything that is complete there, so that a repetition sends only what is
    new or was interrupted.
    """

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self.client = client
        self.run = run
        self.run_id = str(run.info.run_id)
        self._complete: dict[str, str] = json.loads(run.data.tags.get(TAG, "{}"))

    def once(self, name: str, digest: str, send: Callable[[], None]) -> None:
        """Call `send` unless `name` is complete with this digest already."""
        short = digest[:16]
        if self._complete.get(name) != short:
            send()
            self._complete[name] = short
            self.set_tags({TAG: json.dumps(self._complete, sort_keys=True)})

    def upload(self, path: Path, name: str) -> None:
        """Make the file or folder `path` the artifact `name`."""

        def send() -> None:
            with store.patient():
                if path.is_dir():
                    self.client.log_artifacts(self.run_id, str(path), name)
                else:
                    self.client.log_artifact(self.run_id, str(path))

        self.once(name, artifacts.digest_of_files([path], root=path.parent), send)

    def log(self, figures: Iterable[Figure], *, time_ms: int) -> None:
        """Add points; sent again with the same time they are not doubled."""
        self.log_points([Metric(name, value, time_ms, step) for name, step, value in figures])

    def log_points(self, points: list[Metric]) -> None:
        """Add points in as few requests as possible."""
        for call in store.in_calls(points):
            self.client.log_batch(self.run_id, metrics=call)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set those tags that differ."""
        new = [RunTag(name, value) for name, value in tags.items() if self.run.data.tags.get(name) != value]
        if new:
            self.client.log_batch(self.run_id, tags=new)

    def finish(self) -> None:
        """Let the run be FINISHED."""
        if self.run.info.status != "FINISHED":
            self.client.set_terminated(self.run_id, "FINISHED")
