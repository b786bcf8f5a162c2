"""Stage validate: check every episode, hold some out, and write the episode table that all later stages read.

A fault of one episode quarantines it by name or stops the run, as configured; a fault of a dataset as a whole always
stops it. Nothing is skipped silently: the report lists what was found, what was left out and what was not checked, and
it is written before the run stops.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, field_validator
from tqdm import tqdm

from vla import artifacts, config
from vla.data import validation_report
from vla.data.checks import Check
from vla.data.checks.listing import Listing
from vla.data.inspection import ALL_CHECKS, DATASET_CHECKS, EPISODE_CHECKS, SURVEY_CHECKS, Inspection
from vla.data.manifest import Manifest
from vla.data.recording import Looks, read_recording
from vla.data.sources import DataConfig, Sources, open_dataset, source_folder
from vla.data.survey import Survey
from vla.data.validation_record import counted, make_record, make_table
from vla.errors import ConfigError, DataError
from vla.registry import did_you_mean
from vla.video_backend import backend_versions

logger = logging.getLogger(__name__)

NAMED_EPISODES = 5
"""Faulty episodes that the error message describes before it counts the rest."""


class ValidateConfig(config.Config):
    """Section `validate`."""

    holdout: Annotated[float, Field(gt=0, lt=1)]
    """Share of the episodes held out for validation, within each instruction that has enough of them; at least one."""
    held_out_source: str | None = None
    """A dataset of data.mixture that is held out as a whole instead, and nothing else with it."""
    on_bad_episode: Literal["stop", "quarantine"]
    """What a faulty episode does: stop the run, or be left out of it by name."""
    timestamp_tolerance: Annotated[float, Field(gt=0)]
    """How far the time between two steps may be from 1 / fps, as a share of it."""
    frames: Looks
    """Which frames of every view are decoded: all, the ends (first, middle and last of each episode), or none."""
    warn_only: tuple[str, ...]
    """Checks whose findings are reported and otherwise ignored."""
    skip: tuple[str, ...]
    """Checks that are not made at all, such as `files` and `timestamps` on slow storage; the report says so."""
    state_dim: Annotated[int, Field(gt=0)] | None = None
    """State dimensions that the policy expects; null: not compared here."""
    action_dim: Annotated[int, Field(gt=0)] | None = None
    """Action dimensions that the policy expects; null: not compared here."""

    @field_validator("warn_only")
    @classmethod
    def _can_warn(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, (check for check in ALL_CHECKS if not check.is_essential and check.level == "error"))

    @field_validator("skip")
    @classmethod
    def _can_be_skipped(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, (check for check in ALL_CHECKS if not check.is_essential))


def _known(names: tuple[str, ...], checks: Iterable[Check[Any]]) -> tuple[str, ...]:
    choices = sorted(check.name for check in checks)
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


def run(cfg: Config, *, dataset: Path, episodes: Path, validation: Path, report: Path) -> None:
    """Write the report and the record, then stop on faults as configured, else write the episode table."""
    held_out_source, names = cfg.validate.held_out_source, list(cfg.data.mixture)
    if held_out_source is not None and held_out_source not in names:
        raise ConfigError(
            f"validate.held_out_source: expected a dataset of data.mixture ({', '.join(names) or 'which is empty'}), "
            f"found {held_out_source!r}.{did_you_mean(held_out_source, names)} Correct it."
        )
    backend_versions(cfg.data.video_backend)  # what is not installed is missed here rather than in training
    # Whatever decodes later, PyAV alone reports damage that a decoder can gloss over.
    data = open_dataset(cfg.data.model_copy(update={"video_backend": "pyav"}), dataset)
    manifest = Manifest.read(dataset)
    inspection = inspect(data, cfg.validate, list_sources(data, cfg, dataset))
    table = make_table(inspection, data, holdout=cfg.validate.holdout, held_out_source=held_out_source)
    problem = find_problem(inspection, table, cfg.validate, dataset=dataset)
    record = make_record(inspection, table, failed=bool(problem), held_out_source=held_out_source)
    record |= {"data_name": cfg.data.name, "dataset_digest": manifest.digest}
    artifacts.write_json(validation, record)
    artifacts.write_text(report, validation_report.render(record, table, data.schema, inspection.survey))
    if problem:
        raise DataError(f"{problem} Open {report} for all findings.")
    write_table(episodes, table, dataset_digest=manifest.digest)
    counts, warnings_found = record["episodes"], sum(finding.level == "warning" for finding in inspection.findings)
    logger.info(
        "%d episodes: %d train, %d validation, %d quarantined; %s, see %s",
        *(counts[side] for side in ("total", "train", "validation", "quarantined")),
        counted(warnings_found, "warning"), report,
    )  # fmt: skip


def list_sources(data: Sources, cfg: Config, dataset: Path) -> list[Listing]:
    """What is known of each dataset before any episode is read."""
    expected = {"state_dim": cfg.validate.state_dim, "action_dim": cfg.validate.action_dim}
    folders = {name: source_folder(dataset, cfg.data, name) for name in cfg.data.sources}
    return [
        Listing(source, source.manifest.folder(folders[source.name]), main=data.schema, **expected)
        for source in data.sources
    ]


def inspect(data: Sources, cfg: ValidateConfig, listings: list[Listing]) -> Inspection:
    """Make all checks that the settings do not leave out."""
    is_mixture = len(listings) > 1

    def place(episode_id: int) -> str:
        name, number = data.uid_parts(episode_id)
        return f"{name}: episode {number}" if is_mixture else f"episode {number}"

    episodes = data.episodes()
    inspection = Inspection(
        listings=listings,
        episodes=episodes,
        findings=[],
        survey=Survey.empty(data.schema, total_steps=pc.sum(episodes["length"], min_count=0).as_py(), place=place),
        omitted={check.name: check.omission(frames=cfg.frames, skip=cfg.skip) for check in ALL_CHECKS},
        frames=cfg.frames,
    )
    for item in listings:
        where = item.source.name if is_mixture else ""
        inspection.judge(DATASET_CHECKS, item, where=where, warn_only=cfg.warn_only)
    if not inspection.dataset_faults:
        _inspect_episodes(data, cfg, inspection)
    if inspection.survey.contents:
        inspection.judge(SURVEY_CHECKS, inspection.survey, warn_only=cfg.warn_only)
    return inspection


def _inspect_episodes(data: Sources, cfg: ValidateConfig, inspection: Inspection) -> None:
    """Read every episode once; sound ones join the survey."""
    schemas = {item.source.name: item.schema for item in inspection.listings}
    settings: dict[str, Any] = {"timestamp_tolerance": cfg.timestamp_tolerance, "frames": cfg.frames}
    with tqdm(desc="checking episodes", total=len(inspection.episodes), leave=False, disable=None) as bar:
        for row in _rows(inspection.episodes):
            recording = read_recording(data, row, schema=schemas[row["source"]], **settings)
            place = {"where": inspection.survey.place(recording.episode_id), "episode_id": recording.episode_id}
            found = inspection.judge(EPISODE_CHECKS, recording, **place, warn_only=cfg.warn_only)
            if not any(finding.level == "error" for finding in found):
                inspection.survey.add(recording)
            bar.update()


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows, few of them as Python objects at a time."""
    for batch in table.to_batches(max_chunksize=1000):
        yield from batch.to_pylist()


def find_problem(inspection: Inspection, table: pa.Table, cfg: ValidateConfig, *, dataset: Path) -> str:
    """Why the run has to stop, in the words of an error message; empty when it need not."""
    if faults := inspection.dataset_faults:
        essential = {check.name for check in ALL_CHECKS if check.is_essential}
        can_go_on = not any(fault.check in essential for fault in faults)
        advice = ", or name them in validate.warn_only" if can_go_on else ""
        return (
            f"{dataset}: expected a sound dataset, found {'; '.join(str(fault) for fault in faults)}. "
            f"Mend what these checks found{advice}."
        )
    reasons, sides = inspection.reasons, set(table["split"].unique().to_pylist())
    if reasons and (cfg.on_bad_episode == "stop" or len(reasons) == len(table)):
        named = [f"{inspection.survey.place(episode_id)}: {reason}" for episode_id, reason in reasons.items()]
        rest = f"\n  and {len(named) - NAMED_EPISODES} more" if len(named) > NAMED_EPISODES else ""
        advice = "" if len(reasons) == len(table) else ", or set validate.on_bad_episode to quarantine"
        return (
            f"{dataset}: expected sound episodes, found {len(reasons)} of {len(table)} with faults:\n  "
            + "\n  ".join(named[:NAMED_EPISODES])
            + f"{rest}\nRepair or remove them{advice}."
        )
    if "train" not in sides:
        return (
            f"{dataset}: expected episodes to train on, found all {len(table) - len(reasons)} held out for validation: "
            f"equal recordings follow one that is held out. Add episodes that differ, or hold out others."
        )
    if "validation" not in sides:
        return (
            f"{dataset}: expected sound episodes of {cfg.held_out_source} (validate.held_out_source), found none. "
            f"Repair it, or hold out episodes of the others."
        )
    return ""


def write_table(path: Path, table: pa.Table, *, dataset_digest: str) -> None:
    """Write the episode table; the digest in its metadata makes tables of different data differ."""
    with artifacts.new_file(path) as partial:
        pq.write_table(table.replace_schema_metadata({"dataset_digest": dataset_digest}), partial)
