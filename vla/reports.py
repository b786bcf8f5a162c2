"""Stage reports: what a stage tells whoever started the pipeline, through files and not through exit codes.

DVC turns every failure into exit code 255 and says nothing about a stage that it restored. So when $VLA_STAGE_REPORTS
names a folder, each stage leaves `<stage>.started` and `<stage>.ended` there: a stage with a report ran, one without
was restored from the cache. Each file is complete when it exists. `<stage>.tracked` appears as soon as the stage
knows its MLflow run, so that a running stage can be looked at.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vla import artifacts
from vla.errors import Preempted

VARIABLE = "VLA_STAGE_REPORTS"
Status = Literal["done", "pruned", "preempted", "failed"]


@dataclass(frozen=True, slots=True)
class StageReport:
    """What is known of a stage that has started."""

    status: Status | None
    """None while the stage runs, or when it was killed before it could say how it ended."""
    seconds: float | None
    run_id: str | None
    """Its MLflow run, if it has one."""
    message: str


def folder() -> Path | None:
    """The folder for reports, or None when nobody asked for them."""
    value = os.environ.get(VARIABLE)
    return Path(value) if value else None


@contextmanager
def reported(stage: str) -> Iterator[None]:
    """Report the start and the end of the stage that runs in the block; does nothing when nobody asked."""
    reports = folder()
    if reports is None:
        yield
        return
    for name in ("ended", "tracked"):
        (reports / f"{stage}.{name}").unlink(missing_ok=True)
    artifacts.write_json(reports / f"{stage}.started", {"pid": os.getpid()})
    start = time.monotonic()
    status: Status = "failed"
    message = ""
    try:
        yield
        status = "done"
    except Preempted as error:
        status, message = "preempted", str(error)
        raise
    except BaseException as error:
        message = str(error) or type(error).__name__
        raise
    finally:
        ended = {"status": status, "seconds": time.monotonic() - start, "message": message}
        artifacts.write_json(reports / f"{stage}.ended", {**_read(reports / f"{stage}.tracked"), **ended})


def announce_run(stage: str, run_id: str) -> None:
    """Tell which MLflow run belongs to the running stage."""
    reports = folder()
    if reports is not None:
        artifacts.write_json(reports / f"{stage}.tracked", {"run_id": run_id})


def read(reports: Path, stage: str) -> StageReport | None:
    """The report of a stage, or None when it has not started."""
    if not (reports / f"{stage}.started").exists():
        return None
    known = _read(reports / f"{stage}.tracked") | _read(reports / f"{stage}.ended")
    return StageReport(
        status=known.get("status"),
        seconds=known.get("seconds"),
        run_id=known.get("run_id"),
        message=known.get("message", ""),
    )


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = artifacts.read_json(path, made_by="dvc repro") if path.exists() else {}
    return values
