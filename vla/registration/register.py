"""Stage register: publish what the pipeline made to MLflow, pass the gate, register the model version.

A side effect, so it is repeated and never restored: each run makes the store equal to the files and compares with
today's champion. Inside a DVC experiment it publishes the run only: parallel trials would race for the champion.
`dvc exp apply <name>` followed by `dvc repro -f -s register` registers a trial's policy. (Plain `dvc repro` does too
after `exp run --temp`; an experiment in the workspace leaves a registration.json that DVC then finds unchanged.)
"""

import logging
import warnings
from pathlib import Path

from vla import artifacts, config, reports, workspace
from vla.registration import gate, runs, stale, versions
from vla.registration.candidate import Candidate, Files
from vla.registration.gate import RegisterConfig
from vla.tracking import store
from vla.tracking.tracker import TrackingConfig

logger = logging.getLogger(__name__)
WHAT_TO_DO = (
    "Training is complete and kept. Start the server (or mend what it refuses), then run 'dvc repro': only register "
    "runs again."
)


with warnings.catch_warnings():
    # The section has the name of a method that abstract classes have and that means nothing for a config.
    warnings.filterwarnings("ignore", message='Field name "register"')

    class Config(config.Config):
        """What the stage reads."""

        tracking: TrackingConfig
        register: RegisterConfig


def run(  # noqa: PLR0913  # one parameter per file of the stage
    cfg: Config,
    *,
    policy: Path,
    training: Path,
    validation: Path,
    evaluation: Path,
    report: Path,
    rollout: Path,
    videos: Path,
    registration: Path,
) -> None:
    """Publish, gate and register; writes what was done to `registration`.

    Raises CheckpointError or DataError for a policy that must not be registered, TrackingError when the store does not
    answer.
    """
    candidate = Candidate.read(Files(policy, training, validation, evaluation, report, rollout, videos))
    uri = store.tracking_uri()
    with store.answering(uri, then=WHAT_TO_DO):
        record = publish(cfg, candidate, uri)
    artifacts.write_json(registration, {**record, "tracking_uri": store.public_uri(uri)})
    if record["version"] is None:
        logger.info("published run %s; %s", record["run_id"], record["decision"])
    else:
        logger.info("%s version %s is %s: %s", *(record[key] for key in ("model", "version", "alias", "decision")))


def publish(cfg: Config, candidate: Candidate, uri: str) -> dict[str, object]:
    """Everything that talks to the store; returns the record of it."""
    client = store.connect(uri)
    run_id = runs.publish_policy(client, store.experiment_id(client, cfg.tracking.experiment), candidate)
    reports.announce_run("register", run_id)
    evaluation_run_id = runs.publish_evaluation(client, run_id, candidate)
    passport_digest = runs.publish_passport(client, run_id, candidate.passport)
    stale.close_stale_runs(client, uri)
    record: dict[str, object] = {
        "run_id": run_id,
        "evaluation_run_id": evaluation_run_id,
        "model": cfg.tracking.model,
        "bundle_digest": candidate.bundle_digest,
    }
    experiment = workspace.experiment_name()
    if experiment is not None:
        decision = (
            f"inside experiment {experiment!r} only the run is published; "
            f"'dvc exp apply {experiment}' and 'dvc repro -f -s register' register it"
        )
        return {**record, "version": None, "alias": None, "champion": False, "decision": decision}
    with store.locked("versions"):
        champion = versions.champion_passport(client, cfg.tracking.model)
        outcome = gate.decide(candidate.passport, champion, cfg.register)
        made = versions.register(
            client,
            cfg.tracking.model,
            candidate,
            run_id=run_id,
            passport_digest=passport_digest,
            decision=outcome,
        )
    return {
        **record,
        "version": made.version,
        "alias": made.alias,
        "champion": outcome.promote,
        "decision": outcome.reason,
    }
