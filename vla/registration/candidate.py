"""A policy on its way into the registry: the files of the pipeline, read once and found to belong together."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vla import artifacts
from vla.errors import CheckpointError
from vla.models import bundle as bundles
from vla.registration import gate
from vla.tracking import passport


@dataclass(frozen=True, slots=True)
class Files:
    """What the stages before `register` wrote."""

    policy: Path
    training: Path
    validation: Path
    evaluation: Path
    report: Path
    rollout: Path
    videos: Path

    @property
    def journal(self) -> Path:
        """The training's metrics."""
        return self.training / "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bundle with everything that is known about it."""

    files: Files
    passport: Mapping[str, Any]
    """Joined: training, validation, evaluation and rollout."""
    evaluation: Mapping[str, Any]
    """Contents of evaluation.json."""
    rollout: Mapping[str, Any]
    """Contents of rollout.json."""
    params: Mapping[str, Any]
    """Flat parameters of the training."""
    trained_as: str | None
    """The run that training logged to, if it had one."""

    @classmethod
    def read(cls, files: Files) -> Self:
        """Read and check the files.

        Raises CheckpointError for a bundle that is damaged or has no passport, DataError for a report that is missing,
        bad or about another bundle.
        """
        own = passport.read(files.policy)
        digest = bundles.digest_of(files.policy)
        if digest != own["bundle_digest"]:
            raise CheckpointError(
                f"{files.policy}: expected bundle digest {own['bundle_digest']}, found {digest}: a file of the bundle "
                f"was changed or damaged. Restore it with 'dvc checkout --force', or run 'dvc repro -f -s train'."
            )
        validation = artifacts.read_json(files.validation, made_by="dvc repro validate")
        evaluation = artifacts.read_json(files.evaluation, made_by="dvc repro evaluate")
        rollout = artifacts.read_json(files.rollout, made_by="dvc repro rollout")
        gate.admit(own, validation=validation, evaluation=evaluation, rollout=rollout)
        return cls(
            files,
            passport.join(own, validation=validation, evaluation=evaluation, rollout=rollout),
            evaluation,
            rollout,
            params=artifacts.read_json(files.training / "params.json", made_by="dvc repro train"),
            trained_as=artifacts.read_json(files.training / "run.json", made_by="dvc repro train")["run_id"],
        )

    @property
    def bundle_digest(self) -> str:
        digest: str = self.passport["bundle_digest"]
        return digest

    @property
    def dataset_digest(self) -> str:
        digest: str = self.passport["inputs"]["dataset"]
        return digest

    @property
    def evaluation_digest(self) -> str:
        """Identity of the evaluation: this bundle with these results, offline and in rollouts."""
        results = [self.passport[report]["digest"] for report in ("evaluation", "rollout")]
        return artifacts.digest_of_value([self.bundle_digest, *results])
