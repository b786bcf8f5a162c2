"""Model versions: the policy as a model that MLflow loads and serves, found by its bundle digest, and the aliases.

The model is saved as code and safetensors (nothing is pickled) together with the source of `vla`, so a version acts as
it did when it was registered. Saving it by hand instead of with mlflow's `log_model` gives every call an explicit run
and lets an interrupted registration be repeated.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

import vla
from vla import artifacts
from vla.errors import DataError
from vla.models import bundle as bundles
from vla.registration import runs
from vla.registration.candidate import Candidate
from vla.registration.gate import Decision
from vla.serving import pyfunc
from vla.tracking import passport, store

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True, slots=True)
class Registered:
    """A model version as `registration.json` names it."""

    version: int
    alias: str


def champion_passport(client: MlflowClient, model: str) -> dict[str, Any] | None:
    """The joined passport of today's champion, None when the model has none."""
    version = aliases(client, model).get(CHAMPION)
    if version is None:
        return None
    found = client.get_model_version(model, version)
    where = f"model {model!r} version {version}, alias {CHAMPION!r}"
    if "passport_digest" not in found.tags or not found.run_id:
        raise DataError(
            f"{where}: expected a version that stage register made, found none of its tags. "
            f"Move the alias to such a version or remove it, then run 'dvc repro'."
        )
    path = runs.passport_path(found.tags["passport_digest"])
    with tempfile.TemporaryDirectory() as folder, store.patient():
        local = client.download_artifacts(found.run_id, path, folder)
        joined: dict[str, Any] = artifacts.read_json(Path(local), made_by="dvc repro -f -s register")
    if joined["schema"] != passport.SCHEMA:
        raise DataError(
            f"{where}: expected a passport of schema {passport.SCHEMA}, found schema {joined['schema']}, which "
            f"cannot be compared. Register under another tracking.model, or remove the alias to start anew."
        )
    return joined


def register(
    client: MlflowClient, model: str, candidate: Candidate, *, run_id: str, passport_digest: str, decision: Decision
) -> Registered:
    """Find or make the candidate's version and give it the alias that the gate decided."""
    version = _find(client, model, candidate.bundle_digest) or _create(client, model, candidate, run_id)
    tags = {
        "dataset_digest": candidate.dataset_digest,
        "evaluation_digest": candidate.evaluation_digest,
        "passport_digest": passport_digest,
        "error_ratio": f"{candidate.passport['evaluation']['error_ratio']:.6g}",
        "success": str(candidate.passport["rollout"]["success"]),
    }
    for name, value in tags.items():
        client.set_model_version_tag(model, version.version, name, value)
    alias = CHAMPION if decision.promote else CHALLENGER
    client.set_registered_model_alias(model, alias, version.version)
    if decision.promote and aliases(client, model).get(CHALLENGER) == str(version.version):
        client.delete_registered_model_alias(model, CHALLENGER)
    return Registered(int(version.version), alias)


def aliases(client: MlflowClient, model: str) -> Mapping[str, str]:
    """Alias -> version; empty for a model that does not exist yet."""
    try:
        found = client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    return {alias: str(version) for alias, version in found.aliases.items()}


def _find(client: MlflowClient, model: str, bundle_digest: str) -> ModelVersion | None:
    """The oldest version of the bundle; TrackingConfig keeps quotes out of the model's name."""
    found = client.search_model_versions(f"name = '{model}' and tag.bundle_digest = '{bundle_digest}'")
    return min(found, key=lambda version: int(version.version), default=None)


def _create(client: MlflowClient, model: str, candidate: Candidate, run_id: str) -> ModelVersion:
    """A new version; its tag is set in the request that makes it, so there is never one without."""
    model_id = _logged_model(client, candidate, run_id)
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        model,
        f"models:/{model_id}",
        run_id,
        tags={"bundle_digest": candidate.bundle_digest},
        model_id=model_id,
    )


def _logged_model(client: MlflowClient, candidate: Candidate, run_id: str) -> str:
    """Id of the candidate's complete model, uploaded unless an interrupted registration already did."""
    experiment_id = client.get_run(run_id).info.experiment_id
    condition = f"tags.bundle_digest = '{candidate.bundle_digest}'"
    for earlier in client.search_logged_models([experiment_id], condition):
        if earlier.status == "READY":
            return str(earlier.model_id)
        client.delete_logged_model(earlier.model_id)
    tags = {"bundle_digest": candidate.bundle_digest}
    logged = client.create_logged_model(experiment_id, "policy", source_run_id=run_id, tags=tags)
    with tempfile.TemporaryDirectory() as folder, store.patient():
        save(candidate.files.policy, Path(folder) / "model", run_id=run_id, model_id=logged.model_id)
        client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def save(policy: Path, target: Path, *, run_id: str, model_id: str) -> None:
    """Write the bundle `policy` as an MLflow model to the new folder `target`."""
    bundle = bundles.load(policy)
    mlflow.pyfunc.save_model(
        target,
        python_model=pyfunc.__file__,
        artifacts={"bundle": str(policy)},
        code_paths=[str(Path(vla.__file__).parent)],
        signature=pyfunc.signature(bundle),
        input_example=pyfunc.input_example(bundle),
        pip_requirements=pyfunc.requirements(),
        metadata={"bundle_digest": bundle.digest},
        mlflow_model=Model(run_id=run_id, model_id=model_id),
    )
