"""What the validate stage writes down: the episode table, and `validation.json`.

Both are made of whole columns, so that a million episodes take seconds.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

from vla import keyed
from vla.data.checks import Check
from vla.data.episodes import SCHEMA
from vla.data.inspection import ALL_CHECKS, DATASET_CHECKS, EPISODE_CHECKS, SURVEY_CHECKS, Inspection
from vla.data.recording import Looks
from vla.data.sources import Sources
from vla.data.split import held_out, held_out_by_name
from vla.data.survey import UNKNOWN, Survey

NOT_CHECKED = (
    "whether an instruction describes what is seen",
    "changed bytes that an image or a video decodes without a complaint, as most do in JPEG",
    "columns that data.columns does not name",
    "cameras that stand still but for the noise of compression: only equal frames are found",
    "further faults of an episode after one that makes it unusable",
)
LEFT_TO_TRAIN = (
    "state and action dimensions against the policy's: train compares them (validate.state_dim, .action_dim)"
)
IN_PLACE = "contents of the files against a digest: data read in place are known by size and time"
UNSEEN: Mapping[Looks, str] = {
    "ends": "frames between the first, the middle and the last of each episode (validate.frames is ends)",
    "none": "pictures: no frame was decoded and no video was opened (validate.frames is none)",
}
SIDES = ("train", "validation", "quarantined")


def make_table(
    inspection: Inspection, data: Sources, *, holdout: float, held_out_source: str | None = None
) -> pa.Table:
    """The episode table: sound episodes are split, faulty ones marked as quarantined with the reason.

    The split holds out a share of the episodes, or all of one source.
    """
    rows, survey, reasons = inspection.episodes, inspection.survey, inspection.reasons
    ids = rows["episode_id"].to_pylist()
    is_sound_E = np.isin(np.array(ids, dtype=np.int64), np.array(survey.episode_ids, dtype=np.int64))
    sound = rows.filter(pa.array(is_sound_E))
    if held_out_source is None:
        is_held = held_out(sound["instruction"].to_pylist(), survey.contents, holdout=holdout)
    else:
        is_held = held_out_by_name(sound["source"].to_pylist(), survey.contents, name=held_out_source)
    content_E, split_E = np.full(len(ids), "", dtype=object), np.full(len(ids), "quarantined", dtype=object)
    content_E[is_sound_E], split_E[is_sound_E] = survey.contents, np.where(is_held, "validation", "train")
    columns = {
        **{name: rows[name] for name in rows.column_names},
        "uid": pa.array([keyed.uid(*data.uid_parts(episode_id)) for episode_id in ids], pa.int64()),
        "blocks": _blocks(survey, is_sound_E),
        "content": pa.array(content_E, pa.string()),
        "split": pa.array(split_E, pa.string()),
        "reason": pa.array([reasons.get(episode_id, "") for episode_id in ids], pa.string()),
    }
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _blocks(survey: Survey, is_sound_E: Bool[np.ndarray, "E"]) -> pa.Array:
    """The block starts of every episode, null where they are unknown."""
    count_E = np.full(len(is_sound_E), UNKNOWN, dtype=np.int64)
    count_E[is_sound_E] = survey.block_counts
    is_unknown_E = count_E == UNKNOWN
    ends_E = np.cumsum(np.where(is_unknown_E, 0, count_E))
    offsets = pa.array(np.concatenate([[0], ends_E]), pa.int32())
    starts = pa.array(np.array(survey.block_starts, dtype=np.int32), pa.int32())
    return pa.ListArray.from_arrays(offsets, starts, mask=pa.array(is_unknown_E))


def make_record(
    inspection: Inspection, table: pa.Table, *, failed: bool, held_out_source: str | None = None
) -> dict[str, Any]:
    """The contents of `validation.json`, without the dataset's identity."""
    by_side = {side: table.filter(pc.equal(table["split"], side)) for side in SIDES}
    # When a dataset as a whole is faulty no episode was read, and none has a reason of its own.
    faulty = table.filter(pc.not_equal(table["reason"], "")).select(["episode_id", "reason"]).to_pylist()
    return {
        "status": "failed" if failed else "passed",
        **_counts(table),
        "sources": [
            {
                "name": item.source.name,
                "format": item.schema.format,
                "left_out": dict(item.source.selected.left_out),
                **_counts(table.filter(pc.equal(table["source"], item.source.name))),
            }
            for item in inspection.listings
        ],
        "held_out_source": held_out_source,
        "checks": _check_results(inspection),
        "findings": [asdict(finding) for finding in inspection.findings],
        "quarantined": [{**row, "where": inspection.survey.place(row["episode_id"])} for row in faulty],
        "not_checked": not_checked(inspection),
        "episode_contents": {side: by_side[side]["content"].to_pylist() for side in ("train", "validation")},
    }


def _counts(table: pa.Table) -> dict[str, dict[str, int]]:
    """Episodes and steps by side; quarantined steps are in the total alone."""
    grouped = table.group_by("split").aggregate([("length", "count"), ("length", "sum")]).to_pylist()
    episodes = {row["split"]: row["length_count"] for row in grouped}
    steps = {row["split"]: row["length_sum"] for row in grouped}
    return {
        "episodes": {"total": len(table), **{side: episodes.get(side, 0) for side in SIDES}},
        "steps": {"total": sum(steps.values()), **{side: steps.get(side, 0) for side in SIDES[:2]}},
    }


def _check_results(inspection: Inspection) -> list[dict[str, str]]:
    """Name, status and detail of every check in the order of its application."""
    was_read = not inspection.dataset_faults
    groups: list[tuple[list[Check[Any]], bool]] = [
        (DATASET_CHECKS, True),
        (EPISODE_CHECKS, was_read),
        (SURVEY_CHECKS, bool(inspection.survey.contents)),
    ]
    results = []
    for check, was_made in ((check, was_made) for checks, was_made in groups for check in checks):
        found = [finding for finding in inspection.findings if finding.check == check.name]
        errors = sum(finding.level == "error" for finding in found)
        omission = inspection.omitted[check.name]
        status = ("failed" if errors else "passed") if was_made and not omission else "skipped"
        counts = f" ({counted(errors, 'error')}, {counted(len(found) - errors, 'warning')})" if found else ""
        results.append({"name": check.name, "status": status, "detail": f"{check.promise}{counts}"})
    return results


def not_checked(inspection: Inspection) -> list[str]:
    """What nobody can rely on, in plain words."""
    listings, omitted = inspection.listings, inspection.omitted
    lines = list(NOT_CHECKED)
    if not any(item.state_dim or item.action_dim for item in listings):
        lines.append(LEFT_TO_TRAIN)
    if any(item.source.manifest.root for item in listings):
        lines.append(IN_PLACE)
    if inspection.frames in UNSEEN:
        lines.append(UNSEEN[inspection.frames])
    lines += [f"{check.name}: {check.promise} ({omitted[check.name]})" for check in ALL_CHECKS if omitted[check.name]]
    return lines


def counted(number: int, word: str) -> str:
    """ "1 warning", "2 warnings"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
