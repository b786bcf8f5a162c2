"""Which episodes of a dataset take part: by number, by task or instruction, by what is there (section `data.select`).

Nothing leaves silently: `Selected.left_out` counts the episodes by reason, and the validate stage reports it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64
from pydantic import Field, field_validator

from vla.config import Config
from vla.errors import DataError
from vla.formats import Dataset, NamesTasks
from vla.registry import did_you_mean

NAMED = 8
"""Instructions, or runs of ids, that a message lists."""


class Selection(Config):
    """Section `data.select`; everything is selected unless something is said."""

    episodes: tuple[int | str, ...] | None = None
    """Episode ids, and ranges of them such as "0:200" (the end is not included)."""
    instructions: tuple[str, ...] | None = None
    """Only episodes with one of these instructions."""
    tasks: tuple[str, ...] | None = None
    """Only episodes of the tasks with these short names, where the dataset has such (`task_name` of BEHAVIOR-1K)."""
    per_instruction: Annotated[int, Field(gt=0)] | None = None
    """Only the first so many episodes of each instruction."""
    present: bool = False
    """Leave out episodes of which a file is missing; otherwise a missing file stops the download stage."""

    @field_validator("episodes")
    @classmethod
    def _are_ranges(cls, items: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
        for item in items or ():
            if isinstance(item, str):
                first, colon, end = item.partition(":")
                if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
                    raise ValueError(f"expected episode ids or ranges such as 0:200, found {item!r}")
        return items


@dataclass(frozen=True, slots=True)
class Selected:
    """The outcome of a selection."""

    table: pa.Table
    """The chosen rows of the dataset's episode table."""
    left_out: Mapping[str, int]
    """Reason -> number of episodes that are left out for it."""


def select(cfg: Selection, dataset: Dataset, *, where: str, listed: Collection[str] | None = None) -> Selected:
    """Apply a selection; `listed` are the files that exist, None where that is not known yet.

    Raises DataError when a wanted episode, task or instruction does not exist, or when nothing is left.
    """
    table = dataset.episodes()
    total, left_out = len(table), {}

    def keep(mask: pa.Array | pa.ChunkedArray, reason: str) -> pa.Table:
        kept = table.filter(mask)
        if len(kept) < len(table):
            left_out[reason] = len(table) - len(kept)
        return kept

    if cfg.episodes is not None and total:
        table = keep(_wanted(cfg.episodes, table, where), "not in data.select.episodes")
    if cfg.tasks is not None and total:
        table = keep(_of_tasks(cfg.tasks, dataset, table, where), "not in data.select.tasks")
    if cfg.instructions is not None and total:
        known = sorted(set(table["instruction"].to_pylist()))
        _check_known(cfg.instructions, known, f"{where}: data.select.instructions: expected some of {known[:NAMED]}")
        texts = pa.array(cfg.instructions, pa.string())
        table = keep(pc.is_in(table["instruction"], value_set=texts), "not in data.select.instructions")
    if cfg.present and listed is not None:
        table = keep(_present(dataset, table, listed), "with missing files")
    if cfg.per_instruction is not None:
        table = keep(_first_of_each(table["instruction"], cfg.per_instruction), "beyond data.select.per_instruction")
    if not len(table):
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "the dataset has none"
        raise DataError(f"{where}: expected episodes, found none of {total} ({reasons}). Widen data.select.")
    return Selected(table, left_out)


def _wanted(items: Sequence[int | str], table: pa.Table, where: str) -> pa.Array:
    """Whether each episode is among those that the items name; an id must exist, a range may have gaps."""
    ids_E = table["episode_id"].to_numpy()
    existing, single = set(ids_E.tolist()), [item for item in items if isinstance(item, int)]
    wanted_E = np.isin(ids_E, single)
    for item in items:
        if isinstance(item, int):
            is_empty = item not in existing
        else:
            first, _, end = item.partition(":")
            named_E = (ids_E >= int(first)) & (ids_E < int(end))
            wanted_E, is_empty = wanted_E | named_E, not named_E.any()
        if is_empty:
            raise DataError(
                f"{where}: data.select.episodes: expected some of the ids {_spans(ids_E)}, found {item}. Correct it."
            )
    return pa.array(wanted_E)


def _spans(ids_E: Int64[np.ndarray, "E"]) -> str:
    """The ids in short: "0 to 9, 20, 30 to 39"."""
    sorted_E = np.unique(ids_E)
    ends = np.split(sorted_E, np.flatnonzero(np.diff(sorted_E) > 1) + 1)
    spans = [f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in ends[:NAMED]]
    return ", ".join([*spans, f"... up to {sorted_E[-1]}"] if len(ends) > NAMED else spans)


def _of_tasks(names: Sequence[str], dataset: Dataset, table: pa.Table, where: str) -> pa.Array:
    """Whether each episode is of a task with one of these short names."""
    name_of = dataset.task_names() if isinstance(dataset, NamesTasks) else {}
    if not name_of:
        raise DataError(
            f"{where}: data.select.tasks: expected tasks that have short names, found none. "
            f"Name their texts in data.select.instructions."
        )
    known = sorted(set(name_of.values()))
    _check_known(names, known, f"{where}: data.select.tasks: expected some of {', '.join(known)}")
    return pa.array([name_of.get(number) in names for number in table["episode_id"].to_pylist()], pa.bool_())


def _check_known(wanted: Sequence[str], known: list[str], expected: str) -> None:
    for text in wanted:
        if text not in known:
            raise DataError(f"{expected}, found {text!r}.{did_you_mean(text, known)}")


def _present(dataset: Dataset, table: pa.Table, listed: Collection[str]) -> pa.Array:
    ids = table["episode_id"].to_pylist()
    return pa.array([all(file.as_posix() in listed for file in dataset.episode_files(i)) for i in ids], pa.bool_())


def _first_of_each(instructions: pa.ChunkedArray, limit: int) -> pa.Array:
    """The first `limit` rows of each instruction."""
    seen: Counter[str] = Counter()
    chosen = []
    for text in instructions.to_pylist():
        seen[text] += 1
        chosen.append(seen[text] <= limit)
    return pa.array(chosen, pa.bool_())
