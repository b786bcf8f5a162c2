"""What stage `train` leaves: the finished training, copied from its state directory, which may go then."""

import csv
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla import artifacts, reports
from vla.config import flatten
from vla.tracking.journal import Row
from vla.tracking.journal import read as read_journal
from vla.tracking.tracker import Tracker
from vla.training.headroom import Headroom
from vla.training.job import Job

log = logging.getLogger(__name__)
CURVES = ("loss", "validation_loss", "validation_error")
"""Metrics over the steps that are left as a table, and at the end, of the weights in the bundle, as numbers."""


def export(made: Job, tracker: Tracker, *, policy: Path, training: Path, metrics: Path, loss: Path) -> None:
    """Copy a finished training from its state directory to the stage's outputs."""
    directory = made.state_directory
    with artifacts.new_directory(policy) as partial:
        for file in (item for item in directory.bundle.rglob("*") if item.is_file()):
            copy = partial / file.relative_to(directory.bundle)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    rows = list(read_journal(directory.journal))
    with artifacts.new_directory(training) as partial:
        shutil.copyfile(directory.journal, partial / "metrics.jsonl")
        shutil.copyfile(directory.self_checks, partial / "self_checks.json")
        artifacts.write_json(partial / "params.json", flatten(made.passport["params"]))
        artifacts.write_json(partial / "run.json", tracker.record())
    with artifacts.new_file(loss) as partial, partial.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["step", *CURVES], lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve(rows))
    result = directory.summary()
    summary = numbers_of(rows, step=result["exported_step"])
    headroom = Headroom.of(rows)
    if headroom is not None:
        log.info("%s", headroom)
        summary |= {"loader_samples_per_s": headroom.delivered, "loader_headroom": headroom.ratio}
    artifacts.write_json(metrics, {**result, **summary, "seconds": rows[-1].seconds})
    if tracker.run_id:
        reports.announce_run("train", tracker.run_id)
    directory.remove_finished_others()


def numbers_of(rows: Sequence[Row], *, step: int) -> dict[str, float]:
    """The metrics of CURVES as they stood at a step: each one's last value up to it."""
    last = {name: value for row in rows if row.step <= step for name, value in row.metrics.items()}
    return {name: last[name] for name in CURVES if name in last}


def curve(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Per step that has any: what the curves show."""
    points: dict[int, dict[str, Any]] = {}
    for row in rows:
        kept = {name: row.metrics[name] for name in CURVES if name in row.metrics}
        points.setdefault(row.step, {"step": row.step}).update(kept)
    return [point for point in points.values() if len(point) > 1]
