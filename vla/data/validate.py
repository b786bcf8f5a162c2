"""Stage validate: check every episode, hold some out, and write the episode table that all later stages read.

A fault of one episode quarantines it by name or stops the run, as configured; a fault of the dataset as a whole always
stops it. Nothing is skipped silently: the report lists what was found and what was not checked, and it is written
before the run stops.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, field_validator
from tqdm import tqdm

from vla import artifacts, config, keyed
from vla.data import validation_report
from vla.data.checks import DATASET_CHECKS, EPISODE_CHECKS, SURVEY_CHECKS, Finding, Listing, Recording, judge
from vla.data.episodes import SCHEMA
from vla.data.manifest import Manifest
from vla.data.sources import DataConfig, Sources, open_dataset
from vla.data.split import held_out
from vla.data.survey import Survey, read_episode
from vla.errors import DataError
from vla.formats import Recordings
from vla.registry import did_you_mean

NOT_CHECKED = (
    "state and action dimensions against the policy's: train compares them",
    "whether an instruction describes what is seen",
    "columns that data.columns does not name",
    "further faults of an episode after one that makes it unusable",
)
NAMED_EPISODES = 5
"""Faulty episodes that the error message describes before it counts the rest."""


class ValidateConfig(config.Config):
    """Section `validate`."""

    holdout: Annotated[float, Field(gt=0, lt=1)]
    """Share of the episodes held out for validation, within each instruction that has enough of them; at least one."""
    on_bad_episode: Literal["stop", "quarantine"]
    """What a faulty episode does: stop the run, or be left out of it by name."""
    timestamp_tolerance: Annotated[float, Field(gt=0)]
    """How far the time between two steps may be from 1 / fps, as a share of it."""
    warn_only: tuple[str, ...]
    """Checks of episodes whose findings are reported and otherwise ignored."""

    @field_validator("warn_only")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        choices = sorted(check.name for check in EPISODE_CHECKS if not check.is_essential)
        for name in names:
            if name not in choices:
                raise ValueError(f"expected some of {', '.join(choices)}.{did_you_mean(name, choices)}")
        return names


with warnings.catch_warnings():
    # The section has the stage's name, which pydantic's base class uses for a deprecated method of its own.
    warnings.simplefilter("ignore", UserWarning)

    class Config(config.Config):
        """Parameters of the stage."""

        data: DataConfig
        validate: ValidateConfig  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that was found."""

    listing: Listing
    findings: Sequence[Finding]
    survey: Survey
    """Empty when the dataset as a whole is faulty: no episode was read then."""

    @property
    def dataset_faults(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.episode_id is None and finding.level == "error"]

    @property
    def reasons(self) -> dict[int, str]:
        """Faulty episode -> its faults in one line."""
        reasons: dict[int, list[str]] = {}
        for finding in self.findings:
            if finding.episode_id is not None and finding.level == "error":
                reasons.setdefault(finding.episode_id, []).append(f"{finding.check}: {finding.message}")
        return {episode_id: "; ".join(faults) for episode_id, faults in reasons.items()}


def run(cfg: Config, *, dataset: Path, episodes: Path, validation: Path, report: Path) -> None:
    """Write the report and the record, then stop on faults as configured, else write the episode table."""
    data, manifest = open_dataset(cfg.data, dataset), Manifest.read(dataset)
    inspection = inspect(data, cfg.validate, unlisted=unlisted_files(data))
    table = make_table(inspection, data, holdout=cfg.validate.holdout)
    problem = find_problem(inspection, table, cfg.validate, dataset=dataset)
    not_checked = list(NOT_CHECKED)
    if manifest.root:
        not_checked.append("contents of the files against a digest: data read in place are known by size and time")
    record = make_record(inspection, table, not_checked=not_checked, failed=bool(problem))
    record |= {"data_name": cfg.data.name, "dataset_digest": manifest.digest}
    artifacts.write_json(validation, record)
    artifacts.write_text(report, validation_report.render(record, table, inspection.survey))
    if problem:
        raise DataError(f"{problem} Open {report} for all findings.")
    write_table(episodes, table, dataset_digest=manifest.digest)


def unlisted_files(data: Sources) -> list[str]:
    """Files that the selected episodes lie in and that their manifest does not list."""
    unlisted = []
    for source in data.sources:
        ids = source.selected.table["episode_id"].to_pylist()
        needed = {file.as_posix() for episode_id in ids for file in source.dataset.episode_files(episode_id)}
        unlisted += sorted(needed - source.manifest.listed.keys())
    return unlisted


def inspect(data: Recordings, cfg: ValidateConfig, *, unlisted: Sequence[str]) -> Inspection:
    """Apply all checks; `unlisted` are files that the episodes lie in and that no manifest lists."""
    rows = data.episodes()
    listing = Listing(data.schema, rows, tuple(unlisted))
    survey = Survey.empty(data.schema, total_steps=sum(rows["length"].to_pylist()))
    findings = list(judge(DATASET_CHECKS, listing))
    if findings:
        return Inspection(listing, findings, survey)
    for row in tqdm(rows.to_pylist(), desc="checking episodes", unit="episode", leave=False, disable=None):
        episode = read_episode(data, row["episode_id"], row["length"], row["instruction"])
        recording = Recording(episode, data.schema, cfg.timestamp_tolerance)
        found = list(judge(EPISODE_CHECKS, recording, episode_id=row["episode_id"], warn_only=cfg.warn_only))
        findings += found
        if not any(finding.level == "error" for finding in found):
            survey.add(episode)
    if survey.contents:
        findings += judge(SURVEY_CHECKS, survey)
    return Inspection(listing, findings, survey)


def make_table(inspection: Inspection, data: Sources, *, holdout: float) -> pa.Table:
    """The episode table: sound episodes are split, faulty ones marked as quarantined with the reason."""
    rows = inspection.listing.episodes.to_pylist()
    contents = inspection.survey.contents
    sound = [row for row in rows if row["episode_id"] in contents]
    is_held_out = held_out(
        [row["instruction"] for row in sound], [contents[row["episode_id"]] for row in sound], holdout=holdout
    )
    sides = {row["episode_id"]: "validation" if held else "train" for row, held in zip(sound, is_held_out, strict=True)}
    for row in rows:
        row["uid"] = keyed.uid(*data.uid_parts(row["episode_id"]))
        row["blocks"] = data.block_starts(row["episode_id"]).tolist()
        row["content"] = contents.get(row["episode_id"], "")
        row["split"] = sides.get(row["episode_id"], "quarantined")
        row["reason"] = inspection.reasons.get(row["episode_id"], "")
    return pa.Table.from_pylist(rows, SCHEMA)


def find_problem(inspection: Inspection, table: pa.Table, cfg: ValidateConfig, *, dataset: Path) -> str:
    """Why the run has to stop, in the words of an error message; empty when it need not."""
    if faults := inspection.dataset_faults:
        return f"{dataset}: expected a sound dataset, found {'; '.join(f'{f.check}: {f.message}' for f in faults)}."
    reasons, sides = inspection.reasons, table["split"].to_pylist()
    if reasons and (cfg.on_bad_episode == "stop" or len(reasons) == len(table)):
        named = [f"episode {episode_id}: {reason}" for episode_id, reason in reasons.items()]
        rest = f"\n  and {len(named) - NAMED_EPISODES} more" if len(named) > NAMED_EPISODES else ""
        advice = "" if len(reasons) == len(table) else ", or set validate.on_bad_episode to quarantine"
        return (
            f"{dataset}: expected sound episodes, found {len(reasons)} of {len(table)} with faults:\n  "
            + "\n  ".join(named[:NAMED_EPISODES])
            + f"{rest}\nRepair or remove them{advice}."
        )
    if "train" not in sides:
        return (
            f"{dataset}: expected episodes to train on, found all {len(sides)} held out for validation. "
            f"Add episodes that differ, or lower validate.holdout."
        )
    return ""


def make_record(inspection: Inspection, table: pa.Table, *, not_checked: Sequence[str], failed: bool) -> dict[str, Any]:
    """The contents of `validation.json`, without the dataset's identity."""
    rows = table.to_pylist()
    by_side = {side: [row for row in rows if row["split"] == side] for side in ("train", "validation", "quarantined")}
    steps = {side: sum(row["length"] for row in by_side[side]) for side in ("train", "validation")}
    return {
        "status": "failed" if failed else "passed",
        "episodes": {"total": len(rows), **{side: len(group) for side, group in by_side.items()}},
        "steps": {"total": sum(row["length"] for row in rows), **steps},
        "checks": _check_results(inspection),
        "findings": [asdict(finding) for finding in inspection.findings],
        "not_checked": list(not_checked),
        "episode_contents": {side: [row["content"] for row in by_side[side]] for side in ("train", "validation")},
    }


def _check_results(inspection: Inspection) -> list[dict[str, str]]:
    """Name, status and detail of every check in the order of its application."""
    was_read = not inspection.dataset_faults
    results = []
    for checks, was_made in (
        (DATASET_CHECKS, True),
        (EPISODE_CHECKS, was_read),
        (SURVEY_CHECKS, bool(inspection.survey.contents)),
    ):
        for check in checks:
            found = [finding for finding in inspection.findings if finding.check == check.name]
            errors = sum(finding.level == "error" for finding in found)
            status = ("failed" if errors else "passed") if was_made else "skipped"
            counts = f" ({_count(errors, 'error')}, {_count(len(found) - errors, 'warning')})" if found else ""
            results.append({"name": check.name, "status": status, "detail": f"{check.promise}{counts}"})
    return results


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def write_table(path: Path, table: pa.Table, *, dataset_digest: str) -> None:
    """Write the episode table; the digest in its metadata makes tables of different data differ."""
    with artifacts.new_file(path) as partial:
        pq.write_table(table.replace_schema_metadata({"dataset_digest": dataset_digest}), partial)
