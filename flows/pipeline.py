"""Flow `pipeline`: run the pipeline and show each stage as a task, ran or cached, with metrics, plots and links.

    python -m flows.pipeline                                  # as `dvc repro`
    python -m flows.pipeline -S train.optimizer.lr=3e-4       # as an experiment; the files here stay as they are

There is no second definition of the pipeline here: the tasks are DVC's own stages in DVC's own order, and each task
follows the report of its stage. Everything runs in the main thread, where a request to stop can be heard.
"""

import argparse
import base64
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from logging import Logger, LoggerAdapter
from typing import Annotated, Any

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from flows.reproduce import Reproduction, arguments, metrics, pictures, stages_in_order
from vla.errors import UserError
from vla.reports import StageReport

Override = Annotated[str, Field(pattern=r"^[^=\s]+=.*$", examples=["train.optimizer.lr=3e-4"])]
ROOM_FOR_PICTURES = 1_000_000
"""Bytes of all pictures in a report together; Prefect stores reports in its database."""


@flow(name="pipeline")
def pipeline(overrides: list[Override] | None = None, force: bool = False) -> State[Any]:  # noqa: FBT001, FBT002
    """Bring the pipeline up to date.

    Args:
        overrides: parameters as `key=value`; the run is then a DVC experiment with the name of this flow run.
        force: run every stage, also unchanged ones.
    """
    experiment = runtime.flow_run.name if overrides else None
    try:
        stages = stages_in_order()
        words = arguments(overrides=overrides or [], force=force, experiment=experiment)
    except UserError as error:
        return Failed(message=str(error))
    outcomes: dict[str, StageReport | None] = {}
    with Reproduction(words) as dvc:
        for place, stage in enumerate(stages):
            _log(dvc.until_reached(stages[place:]))
            if dvc.failure and not dvc.has_reached(stages[place:]):
                return Failed(message=dvc.failure)
            state = follow(stage, dvc, return_state=True)
            outcomes[stage] = dvc.report(stage)
            if not state.is_completed():
                return State(type=state.type, name=state.name, message=f"{stage}: {state.message}")
        _log(dvc.until_over())
        if dvc.failure:
            return Failed(message=dvc.failure)
    _publish(outcomes, experiment)
    return Completed(message=f"{sum(bool(report) for report in outcomes.values())} of {len(stages)} stages ran")


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def follow(stage: str, dvc: Reproduction) -> State[Any]:
    """Show the output of a stage until it has ended; its state says how."""
    if dvc.report(stage) is None:
        return Completed(name="Cached", message="unchanged, or restored from DVC's cache")
    _log(dvc.until_ended(stage))
    report = dvc.report(stage)
    if report is None or report.status is None:
        return Failed(message="ended without a report: it was killed")
    if report.status == "done":
        return Completed(name="Ran", message=f"ran for {report.seconds:.1f} s")
    if report.status == "preempted":
        return Cancelled(name="Preempted", message=f"{report.message} Run the pipeline again to go on.")
    return Failed(name=report.status.capitalize(), message=report.message)


def _log(lines: Iterable[str]) -> None:
    logger: Logger | LoggerAdapter[Any] = get_run_logger()
    for line in lines:
        logger.info("%s", line)


def _publish(outcomes: dict[str, StageReport | None], experiment: str | None) -> None:
    """Leave the results with the flow run: a table of metrics, and a page with states, links and plots."""
    numbers = metrics(experiment)
    rows = [
        {"file": path, "metric": name, "value": value}
        for path, values in numbers.items()
        for name, value in values.items()
    ]
    if rows:
        create_table_artifact(rows, key="metrics", description="Top-level numbers of the metrics files")
    create_markdown_artifact(_report(outcomes, experiment), key="report", description="Stages, links and plots")


def _report(outcomes: dict[str, StageReport | None], experiment: str | None) -> str:
    lines = ["| stage | state | seconds | MLflow run |", "|---|---|---|---|"]
    for stage, report in outcomes.items():
        seconds = f"{report.seconds:.1f}" if report and report.seconds is not None else ""
        run = f"[{report.run_id}]({_run_page(report.run_id)})" if report and report.run_id else ""
        lines.append(f"| {stage} | {'ran' if report else 'cached'} | {seconds} | {run} |")
    if experiment:
        lines += ["", f"Experiment `{experiment}`: `dvc exp apply {experiment}` brings it into the working tree."]
    room = ROOM_FOR_PICTURES
    for path, content in pictures(experiment).items():
        room -= len(content)
        shown = f"![{path}](data:image/png;base64,{base64.b64encode(content).decode()})"
        lines += ["", shown if room >= 0 else f"`{path}` is too large to show here."]
    return "\n".join(lines)


def _run_page(run_id: str) -> str:
    """Page of a run on the tracking server; without one, where `make ui` shows it."""
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    address = server.rstrip("/") if server.startswith("http") else "http://127.0.0.1:5000"
    return f"{address}/#/runs/{run_id}"


def main(words: Sequence[str] | None = None) -> int:
    """Run the flow from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Run the pipeline as a Prefect flow.")
    parser.add_argument("-S", "--set-param", action="append", metavar="KEY=VALUE", help="override a parameter")
    parser.add_argument("-f", "--force", action="store_true", help="run every stage, also unchanged ones")
    options = parser.parse_args(words)
    # SIGTERM's own way of ending a process would leave Prefect's temporary server behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    state = pipeline(options.set_param, options.force, return_state=True)
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    raise SystemExit(main())
