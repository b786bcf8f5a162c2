"""`vla summary`: what the last run of the pipeline made, on one screen."""

import argparse
from pathlib import Path
from typing import Any

from vla import artifacts, reports
from vla.dvc_file import artifact_paths
from vla.stages import STAGES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none: it reads what `dvc.yaml` names."""


def run(options: argparse.Namespace) -> str:
    """The summary; a part whose stage has not run says which command makes it."""
    del options
    sections = [
        _stages(),
        _success(_result("rollout", "metrics")),
        _error(_result("evaluate", "metrics")),
        _registration(_result("register", "registration")),
        ["Open the MLflow and Prefect pages with 'make ui'."],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _result(stage: str, artifact: str) -> dict[str, Any]:
    """The JSON file that a stage writes; empty when it is not there."""
    path = artifact_paths(stage).get(artifact)
    values: dict[str, Any] = artifacts.read_json(path, made_by=f"dvc repro {stage}") if path and path.exists() else {}
    return values


def _stages() -> list[str]:
    folder = reports.folder()
    if folder is None:
        return []
    return ["Stages", *(f"  {stage:<16}{_how_it_went(folder, stage)}" for stage in STAGES)]


def _how_it_went(folder: Path, stage: str) -> str:
    report = reports.read(folder, stage)
    if report is None:
        return "cached"
    took = f" {report.seconds:>8.1f} s" if report.seconds is not None else ""
    return f"{'ran' if report.status == 'done' else report.status or 'killed'}{took}"


def _success(rollout: dict[str, Any]) -> list[str]:
    title = "Success in simulation"
    if not rollout:
        return [f"{title}: none yet. Run 'dvc repro rollout'."]
    if rollout["status"] == "skipped":
        return [f"{title}: the dataset has no environment."]
    swapped = rollout["swapped"]
    lines = [f"{title:<28}{'success':>8}  {'95 % interval':<16}{'rollouts':>8}  instructions swapped"]
    for task, result in rollout["tasks"].items():
        lines.append(_success_row(task, result, swapped["tasks"].get(task)))
    return [*lines, _success_row("all tasks", rollout, swapped)]


def _success_row(task: str, result: dict[str, Any], control: dict[str, Any] | None) -> str:
    low, high = result["interval"]
    interval = f"{low:.0%} to {high:.0%}"
    other = f"{control['success']:.0%} of {control['episodes']}" if control and control["episodes"] else "-"
    return f"  {task:<26}{result['success']:>8.0%}  {interval:<16}{result['episodes']:>8}  {other}"


def _error(evaluation: dict[str, Any]) -> list[str]:
    title = "Offline error"
    if not evaluation:
        return [f"{title}: none yet. Run 'dvc repro evaluate'."]
    return [
        f"{title} on {evaluation['episodes']} held-out episodes",
        f"  mean absolute error {evaluation['mae']:.4f}, of the mean action {evaluation['baseline_mae']:.4f}",
        f"  error ratio {evaluation['error_ratio']:.3f} (each dimension in units of its spread; the mean action has 1)",
    ]


def _registration(registration: dict[str, Any]) -> list[str]:
    title = "Registered"
    if not registration:
        return [f"{title}: nothing yet. Run 'dvc repro register'."]
    version = f"{registration['model']} version {registration['version']}" if registration["version"] else "no version"
    alias = f", alias {registration['alias']}" if registration["alias"] else ""
    return [
        f"{title}: {version}{alias}",
        f"  {registration['decision']}",
        f"  MLflow run {registration['run_id']} at {registration['tracking_uri']}",
    ]
