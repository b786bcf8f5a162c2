"""The MLflow run of a policy and the child run of each of its evaluations, made equal to the files of the pipeline.

A policy's run is found by the tag `bundle_digest`. Training usually has made it already, with live curves; when the
store does not know it (another server, a server that was down, a training restored from the cache) it is made from the
files. Every function may be repeated: what is there stays, what is missing is added.
"""

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from vla import artifacts, workspace
from vla.registration.candidate import Candidate
from vla.registration.publication import Figure, Publication
from vla.tracking import store
from vla.tracking.journal import Row, read
from vla.tracking.store import DatasetRecord

HEADLINE = ("success", "swapped_success", "error_ratio", "mae", "mse")
"""Results that stand beside the parameters on the policy's run."""


def publish_policy(client: MlflowClient, experiment_id: str, candidate: Candidate) -> str:
    """Find, adopt or make the policy's run and complete it; returns its id."""
    rows = list(read(candidate.files.journal))
    with store.locked("runs"):
        run = (
            _find(client, experiment_id, f"tags.bundle_digest = '{candidate.bundle_digest}'")
            or _adopt(client, experiment_id, candidate)
            or _restore(client, experiment_id, candidate, rows)
        )
        publication = Publication(client, run)
        publication.set_tags({"bundle_digest": candidate.bundle_digest, **_experiments(run)})
    _complete_curve(publication, rows, digest=artifacts.digest_of_file(candidate.files.journal))
    _complete_description(publication, candidate)
    publication.upload(candidate.files.policy, "bundle")
    publication.upload(candidate.files.training, "training")
    _upload_results(publication, candidate)
    publication.finish()
    return publication.run_id


def publish_evaluation(client: MlflowClient, run_id: str, candidate: Candidate) -> str:
    """Find or make the child run of this evaluation and put its headline on the policy's run.

    Returns the child's id.
    """
    parent, digest = Publication(client, client.get_run(run_id)), candidate.evaluation_digest
    experiment_id = parent.run.info.experiment_id
    with store.locked("runs"):
        run = _find(
            client, experiment_id, f"tags.evaluation_digest = '{digest}' and tags.mlflow.parentRunId = '{run_id}'"
        ) or client.create_run(
            experiment_id,
            run_name=f"evaluation {digest[:8]}",
            tags={"mlflow.parentRunId": run_id, "evaluation_digest": digest},
        )
    child = Publication(client, run)
    found = figures(candidate.evaluation, candidate.rollout)
    child.once("figures", digest, lambda: child.log(found, time_ms=run.info.start_time))
    _upload_results(child, candidate)
    child.finish()
    if parent.run.data.tags.get("evaluation_digest") != digest:
        parent.log(_headline(candidate.passport, parent.run), time_ms=round(time.time() * 1000))
        parent.set_tags({"evaluation_digest": digest})
    return child.run_id


def publish_passport(client: MlflowClient, run_id: str, passport: Mapping[str, Any]) -> str:
    """Store a joined passport with the policy's run; returns its digest, by which it is found again."""
    publication, digest = Publication(client, client.get_run(run_id)), artifacts.digest_of_value(passport)
    publication.once("passport", digest, lambda: client.log_dict(run_id, dict(passport), passport_path(digest)))
    return digest


def passport_path(digest: str) -> str:
    """Artifact path of a joined passport."""
    return f"passports/{digest}.json"


def figures(evaluation: Mapping[str, Any], rollout: Mapping[str, Any]) -> Iterator[Figure]:
    """Every figure of an evaluation; the error over the prediction horizon is a curve."""
    for name, value in evaluation.items():
        if isinstance(value, int | float):
            yield name, 0, value
    for point in evaluation["per_horizon_step"]:
        yield "mae/horizon", point["step"], point["mae"]
    for dimension, found in evaluation["per_dimension"].items():
        yield f"mae/{_metric_name(dimension)}", 0, found["mae"]
    for instruction, found in evaluation["per_task"].items():
        yield f"error_ratio/{_metric_name(instruction)}", 0, found["error_ratio"]
    if rollout["status"] == "done":
        yield "success", 0, rollout["success"]
        if rollout["swapped"]["episodes"]:
            yield "swapped_success", 0, rollout["swapped"]["success"]
        for task, found in rollout["tasks"].items():
            yield f"success/{_metric_name(task)}", 0, found["success"]


def _find(client: MlflowClient, experiment_id: str, condition: str) -> Run | None:
    """The oldest active run; conditions name digests and ids only, so nothing in them needs quoting."""
    found = client.search_runs([experiment_id], condition, order_by=["attributes.start_time"], max_results=1)
    return found[0] if found else None


def _adopt(client: MlflowClient, experiment_id: str, candidate: Candidate) -> Run | None:
    """The run that this training logged to, when the store knows it here and it is no other bundle's."""
    if candidate.trained_as is None:
        return None
    try:
        run = client.get_run(candidate.trained_as)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    here = run.info.lifecycle_stage == "active" and run.info.experiment_id == experiment_id
    return run if here and "bundle_digest" not in run.data.tags else None


def _restore(client: MlflowClient, experiment_id: str, candidate: Candidate, rows: list[Row]) -> Run:
    """A new run, started so long ago that its curve ends now."""
    trained_ms = round(rows[-1].seconds * 1000) if rows else 0
    return client.create_run(
        experiment_id,
        start_time=round(time.time() * 1000) - trained_ms,
        run_name=f"{candidate.passport['params']['policy']['name']}-{candidate.bundle_digest[:8]}",
        tags={"restored": "true", "bundle_digest": candidate.bundle_digest},
    )


def _experiments(run: Run) -> dict[str, str]:
    """The tag that names every DVC experiment whose combination this policy is."""
    current = workspace.experiment_name()
    known = set(filter(None, run.data.tags.get("dvc_experiment", "").split(", ")))
    return {"dvc_experiment": ", ".join(sorted(known | {current}))} if current else {}


def _complete_curve(publication: Publication, rows: list[Row], *, digest: str) -> None:
    """Add the points of the journal that the run lacks."""

    def send() -> None:
        points = store.points(rows, start_time=publication.run.info.start_time)
        known = {
            name: {point.step for point in publication.client.get_metric_history(publication.run_id, name)}
            for name in {point.key for point in points}
        }
        publication.log_points([point for point in points if point.step not in known[point.key]])

    publication.once("curve", digest, send)


def _complete_description(publication: Publication, candidate: Candidate) -> None:
    client, run = publication.client, publication.run
    missing = {name: value for name, value in candidate.params.items() if name not in run.data.params}
    store.log_params(client, publication.run_id, missing)
    if run.inputs is None or not run.inputs.dataset_inputs:
        name = candidate.passport["data_name"]
        store.log_dataset(client, publication.run_id, DatasetRecord(name, candidate.dataset_digest, source=name))
    commit = candidate.passport["code"]["commit"]
    publication.set_tags(
        {"dataset_digest": candidate.dataset_digest, **({"mlflow.source.git.commit": commit} if commit else {})}
    )


def _headline(passport: Mapping[str, Any], run: Run) -> Iterator[Figure]:
    """Headline metrics; one that this evaluation lacks and an earlier one had becomes NaN instead of staying."""
    found = {**passport["evaluation"], **passport["rollout"]}
    for name in HEADLINE:
        if found[name] is not None:
            yield name, 0, found[name]
        elif name in run.data.metrics:
            yield name, 0, float("nan")


def _upload_results(publication: Publication, candidate: Candidate) -> None:
    files = candidate.files
    for path in (files.validation, files.evaluation, files.rollout):
        publication.upload(path, path.name)
    publication.upload(files.report, "evaluation")
    publication.upload(files.videos, "videos")


def _metric_name(text: str) -> str:
    """`text` with the characters that mlflow refuses in metric names replaced."""
    return re.sub(r"[^\w\-. ]", "_", text)
