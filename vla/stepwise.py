"""What the files of a stepwise dataset hold: their columns, and the episodes by the flags of their rows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from vla.errors import DataError
from vla.parquet import read_batches
from vla.registry import did_you_mean

FIRST, LAST, TERMINAL = "is_first", "is_last", "is_terminal"
ENCODED = "_bytes"


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a file, which the others have as well."""

    path: Path
    schema: pa.Schema

    def field(self, column: str) -> pa.Field:
        """A column of the feature map; raises DataError with what there is."""
        if column not in self.schema.names:
            names = sorted(self.schema.names)
            raise DataError(
                f"{self.path}: expected the column {column!r} (data.columns), found {', '.join(names)}."
                f"{did_you_mean(column, names)} Correct data.columns."
            )
        return self.schema.field(column)

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that the rows have; raises DataError without `is_first`, or where one is no truth value."""
        flags = tuple(name for name in (FIRST, LAST, TERMINAL) if name == FIRST or name in self.schema.names)
        for name in flags:
            if not pa.types.is_boolean(self.field(name).type):
                raise DataError(f"{self.path}: {name}: expected bool, found {self.field(name).type}. Write it as bool.")
        return flags

    @property
    def texts(self) -> list[str]:
        return [field.name for field in self.schema if is_text(field.type)]

    @property
    def images(self) -> list[str]:
        """The columns of encoded images, without the ending that says so."""
        return [field.name.removesuffix(ENCODED) for field in self.schema if _is_image(field.type)]

    def text(self, column: str | None) -> str:
        """The column that says what to do; raises DataError when it is not chosen or no text."""
        if column not in self.texts:
            raise DataError(
                f"{self.path}: data.columns.instruction: expected a column of texts, which are "
                f"{', '.join(self.texts) or 'none'}, found {column}. Set it."
            )
        return column

    def image(self, column: str) -> str:
        """The column of a view: of its name, or else of its name and `_bytes`."""
        encoded = f"{column}{ENCODED}"
        found = self.field(encoded if column not in self.schema.names and encoded in self.schema.names else column)
        if not _is_image(found.type):
            raise DataError(
                f"{self.path}: {found.name}: expected encoded images, as binary or struct<bytes, path>, found "
                f"{found.type}. Correct data.columns.views."
            )
        return str(found.name)


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


@dataclass(frozen=True, slots=True)
class Episodes:
    """The episodes of a file."""

    start_E: Int64[np.ndarray, "E"]
    """Their first rows."""
    length_E: Int64[np.ndarray, "E"]
    supervised_E: Int64[np.ndarray, "E"]
    """Number of supervised steps; -1 where the episode was cut off."""
    instructions: list[str]


def find_episodes(path: Path, flags: tuple[str, ...], prompt: str) -> Episodes:
    """Episodes by the flags of all rows.

    Raises DataError where flags are missing or contradict each other, or where the instruction changes on the way.
    """
    count, texts, changes = 0, list[str](), list[int]()
    flagged: dict[str, list[np.ndarray]] = {flag: [np.zeros(0, dtype=np.int64)] for flag in flags}
    for batch in read_batches(path, [*flags, prompt]):
        for flag in flags:
            flagged[flag].append(_true(batch.column(flag), where=f"{path}: {flag}", offset=count) + count)
        changes += [row + count for row in _add_texts(texts, batch.column(prompt), flagged[FIRST][-1] - count)]
        count += len(batch)
    rows = {flag: np.concatenate(parts) for flag, parts in flagged.items()}
    start_E = rows[FIRST]
    end_E = np.append(start_E[1:], count)[: len(start_E)]
    if count and not (len(start_E) and start_E[0] == 0):
        raise DataError(
            f"{path}: expected an episode to begin with the file ({FIRST} in row 0), found the rest of another. "
            f"Write each episode into one file."
        )
    if LAST in flags:
        _check_ends(path, rows[LAST], end_E - 1, count)
    if changes:
        raise DataError(
            f"{path}: {prompt}: expected one instruction from the beginning of an episode to its end, found another "
            f"one in row {changes[0]}. Begin a new episode where the instruction changes."
        )
    supervised_E = end_E - start_E
    if TERMINAL in flags:
        episode, place = np.unique(np.searchsorted(start_E, rows[TERMINAL], side="right") - 1, return_index=True)
        supervised_E = np.full(len(start_E), -1)
        supervised_E[episode] = rows[TERMINAL][place] - start_E[episode] + 1
    return Episodes(start_E, end_E - start_E, supervised_E, texts)


def _true(flags: pa.BooleanArray, *, where: str, offset: int) -> Int64[np.ndarray, "R"]:
    """The rows of a batch that are flagged."""
    if flags.null_count:
        row = offset + int(np.flatnonzero(flags.is_null())[0])
        raise DataError(f"{where}: expected true or false in every row, found neither in row {row}. Repair the file.")
    return np.flatnonzero(flags)


def _add_texts(texts: list[str], column: pa.Array, start_R: Int64[np.ndarray, "R"]) -> list[int]:
    """Append the instructions of the episodes that begin in a batch; returns the rows where they change on the way."""
    column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    codes_N = column.indices.fill_null(-1).to_numpy()
    starts, changes = set(start_R.tolist()), []
    for row in sorted({0, *starts, *(np.flatnonzero(np.diff(codes_N)) + 1).tolist()}):
        text = column.dictionary[codes_N[row]].as_py() if codes_N[row] >= 0 else ""
        if row in starts:
            texts.append(text)
        elif texts and text != texts[-1]:
            changes.append(row)
    return changes


def _check_ends(path: Path, last: Int64[np.ndarray, "R"], expected: Int64[np.ndarray, "E"], count: int) -> None:
    """Whether the rows flagged as last are those before the next episodes."""
    different = np.setxor1d(last, expected)
    if len(different) and different[0] == count - 1:
        raise DataError(
            f"{path}: expected an episode to end with the file ({LAST} in row {count - 1}), found the beginning of one "
            f"that goes on. Write each episode into one file."
        )
    if len(different):
        raise DataError(
            f"{path}: expected {LAST} in every row before one with {FIRST} and nowhere else, found otherwise in row "
            f"{different[0]}. Repair the flags."
        )
