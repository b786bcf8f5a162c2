"""Damage to the files of a dataset, and what the stages download and validate say about it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from inspections import SETTINGS

from vla.data import download, validate
from vla.data.episodes import EpisodeTable
from vla.errors import DataError

Damage = Callable[[Path], None]
Change = Callable[[list[Any]], Sequence[Any]]
"""Of the values of a column."""


@dataclass(frozen=True)
class Outcome:
    """What the stages left."""

    record: dict[str, Any]
    stopped: str

    @property
    def lines(self) -> list[str]:
        """All findings but for those about the selection of the test itself."""
        findings = [finding for finding in self.record["findings"] if finding["check"] != "selection"]
        return [f"{finding['where']}: {finding['check']}: {finding['message']}" for finding in findings]

    @property
    def quarantined(self) -> list[str]:
        return [episode["where"] for episode in self.record["quarantined"]]


def validated(root: Path, out: Path, data: dict[str, Any], *, later: Damage | None = None, **settings: Any) -> Outcome:
    """Point to the dataset in `root`, damage it `later`, and validate it."""
    data = {"name": "damaged", **data}
    source = {"source": "local", "local": {"path": str(root)}}
    download.run(
        download.Config.parse({"data": data, "seed": 0, "download": source}, where="test"), dataset=out / "dataset"
    )
    if later:
        later(root)
    values = {**SETTINGS, "on_bad_episode": "quarantine", **settings}
    cfg, stopped = validate.Config.parse({"data": data, "validate": values}, where="test"), ""
    paths = {name: out / name for name in ("episodes", "validation", "report")}
    try:
        validate.run(cfg, dataset=out / "dataset", **paths)
        assert len(EpisodeTable.read(paths["episodes"], "train")) > 0
    except DataError as error:
        stopped = str(error)
    return Outcome(json.loads(paths["validation"].read_text()), stopped)


def replaced(name: str, old: bytes, new: bytes) -> Damage:
    """Change bytes of a file, which occur in it once."""

    def damage(root: Path) -> None:
        content = (root / name).read_bytes()
        assert content.count(old) == 1
        (root / name).write_bytes(content.replace(old, new))

    return damage


def cut(name: str, share: float) -> Damage:
    def damage(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(len(content) * share)])

    return damage


def flipped(name: str, share: float, count: int = 40) -> Damage:
    """Invert some bytes of a file, from a share of its length on."""

    def damage(root: Path) -> None:
        content = bytearray((root / name).read_bytes())
        start = int(len(content) * share)
        content[start : start + count] = bytes(255 - value for value in content[start : start + count])
        (root / name).write_bytes(content)

    return damage


def edited(name: str, old: str, new: str) -> Damage:
    return replaced(name, old.encode(), new.encode())


def column(name: str, change: Change, *, rows: str) -> Damage:
    """Change the values of a column of a Parquet file."""

    def damage(root: Path) -> None:
        table = pq.read_table(root / rows)
        changed = pa.array(change(table[name].to_pylist()), table.schema.field(name).type)
        pq.write_table(table.set_column(table.column_names.index(name), name, changed), root / rows)

    return damage


def in_row(row: int, value: Any) -> Change:
    return lambda values: [*values[:row], value, *values[row + 1 :]]


def nan_in_row(row: int, dimension: int) -> Change:
    def change(values: list[Any]) -> list[Any]:
        values[row][dimension] = float("nan")
        return values

    return change
