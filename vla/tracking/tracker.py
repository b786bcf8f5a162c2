"""Live curves of a training run, from a background thread, so that no state of the server can stop or slow training.

    with Tracker.start(cfg, journal=path, state=folder, params=params, tags=tags, dataset=dataset) as tracker:
        ...  # training appends to the journal

Everything that talks to the server happens in the thread: creating the run too, so the run id is None until the server
has answered. What cannot be sent stays in the journal, and `register` completes the run from it.
"""

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from pydantic import Field

from vla import workspace
from vla.config import Config
from vla.errors import Preempted
from vla.tracking import store
from vla.tracking.sender import Description, Sender, Status
from vla.tracking.store import DatasetRecord

logger = logging.getLogger(__name__)
POLL_SECONDS, LONGEST_WAIT_SECONDS = 2.0, 60.0


class TrackingConfig(Config):
    """Section `tracking`. The server is no setting of the project: MLFLOW_TRACKING_URI names it."""

    experiment: Annotated[str, Field(min_length=1)]
    """MLflow experiment that holds the runs."""
    model: Annotated[str, Field(pattern=r"^[\w. -]+$")]
    """Registered model whose versions are the policies."""


class Tracker:
    """A training run in MLflow that follows a journal."""

    def __init__(self, uri: str, sender: Sender) -> None:
        self._uri = uri
        self._sender = sender
        self._closing = threading.Event()
        self._end: Status | None = None
        self._deadline = 0.0
        self._silent = False
        self._ended = False
        self._thread = threading.Thread(target=self._follow, name="tracker", daemon=True)

    @classmethod
    def start(
        cls,
        cfg: TrackingConfig,
        *,
        journal: Path,
        state: Path,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        dataset: DatasetRecord,
    ) -> Self:
        """Begin to follow `journal`.

        `state` is the folder that a resumed training finds again; `params` are flat (dotted name -> value); the tag
        `mlflow.runName` names the run.
        """
        uri = store.tracking_uri()
        experiment = workspace.experiment_name()
        tags = {**tags, **({"dvc_experiment": experiment} if experiment else {})}
        description = Description(params, tags, dataset)
        tracker = cls(uri, Sender(uri, cfg.experiment, journal=journal, state=state, description=description))
        tracker._thread.start()
        return tracker

    @property
    def run_id(self) -> str | None:
        """None until the server has answered."""
        return self._sender.sent.run_id

    def record(self) -> dict[str, str | None]:
        """Contents of `run.json`."""
        sent = self._sender.sent
        return {"run_id": sent.run_id, "tracking_uri": sent.tracking_uri, "experiment": sent.experiment}

    def close(self, status: Status, *, timeout: float = 20.0) -> bool:
        """End the run; returns whether the server has everything, within about `timeout` seconds.

        A server that was silent before gets one more try and no waiting.
        """
        self._deadline = time.monotonic() + (0.0 if self._silent else timeout)
        self._end = status
        self._closing.set()
        self._thread.join(timeout)
        if not self._ended:
            logger.warning(
                "%s: the run's metrics are not complete there. They are in the journal; the register stage sends them "
                "when the server answers.",
                store.public_uri(self._uri),
            )
        return self._ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = isinstance(error, Preempted | KeyboardInterrupt | SystemExit)
        self.close("FINISHED" if error is None else "KILLED" if stopped else "FAILED")

    def _follow(self) -> None:
        """Send, wait, send again; longer waits while the server is silent."""
        wait = POLL_SECONDS
        while True:
            end = self._end
            try:
                if end:
                    self._sender.finish(end)
                    self._ended = True
                    return
                self._sender.send()
            except (*store.SERVER_ERRORS, OSError) as error:  # OSError: what has been sent is noted on a disk
                if end and time.monotonic() + POLL_SECONDS > self._deadline:
                    return
                self._note_silence(error)
                wait = POLL_SECONDS if end else min(2 * wait, LONGEST_WAIT_SECONDS)
            else:
                self._note_answer()
                wait = POLL_SECONDS
            if end:
                time.sleep(wait)
            else:
                self._closing.wait(wait)

    def _note_silence(self, error: BaseException) -> None:
        if not self._silent:
            logger.warning(
                "%s: the tracking server does not answer (%s). Training goes on; its metrics are kept in the journal "
                "and sent when the server is back.",
                store.public_uri(self._uri),
                store.first_line(error),
            )
        self._silent = True

    def _note_answer(self) -> None:
        if self._silent:
            logger.warning("%s: the tracking server answers again; the metrics are sent.", store.public_uri(self._uri))
        self._silent = False
