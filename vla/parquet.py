"""Rows of Parquet files, read by row group; the last files stay open and the last row groups stay in memory.

Opening a file and decoding a row group cost milliseconds, a slice of a decoded one costs nothing, and readers ask for
neighbouring rows again and again. Memory is bounded by `CACHE_BYTES`.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from vla.errors import DataError
from vla.registry import did_you_mean

OPEN_FILES = 32
CACHE_BYTES = 256_000_000


class ParquetRows:
    """Rows of many files. Copies sent to other processes start with nothing open."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, pq.ParquetFile] = OrderedDict()
        self._groups: OrderedDict[tuple[Path, int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._cached = 0

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), ()

    def read(self, path: Path, start: int, stop: int, columns: tuple[str, ...]) -> pa.Table:
        """Rows [start, stop) of a file; raises DataError when the file is damaged, too short or lacks a column."""
        file = self._open(path)
        names = file.schema_arrow.names
        for column in columns:
            if column not in names:
                raise DataError(
                    f"{path}: expected the column {column!r}, found {', '.join(names)}.{did_you_mean(column, names)} "
                    f"Correct data.columns or repair the dataset."
                )
        metadata = file.metadata
        if stop > metadata.num_rows:
            raise DataError(
                f"{path}: expected at least {stop} rows, found {metadata.num_rows}: the file is incomplete. "
                f"Download the dataset again."
            )
        ends = np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])
        first, last = np.searchsorted(ends, [start, stop - 1], side="right")
        offset = int(ends[first - 1]) if first else 0
        groups = [self._group(path, int(group), columns) for group in range(first, last + 1)]
        return pa.concat_tables(groups).slice(start - offset, stop - start)

    def count(self, path: Path) -> int:
        """Rows of a file."""
        return int(self._open(path).metadata.num_rows)

    def group_starts(self, path: Path) -> Int64[np.ndarray, "G"]:
        """The first row of each row group: reading can begin there without decoding what lies before."""
        metadata = self._open(path).metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        return np.cumsum([0, *counts[:-1]], dtype=np.int64)[: len(counts)]

    def _open(self, path: Path) -> pq.ParquetFile:
        if path not in self._files:
            try:
                self._files[path] = pq.ParquetFile(path)
            except FileNotFoundError:
                raise DataError(f"{path}: expected a Parquet file, found none. Download the dataset again.") from None
            except (pa.ArrowException, OSError) as error:
                raise DataError(_damaged(path, error)) from None
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(path)
        return self._files[path]

    def _group(self, path: Path, group: int, columns: tuple[str, ...]) -> pa.Table:
        key = (path, group, columns)
        if key not in self._groups:
            try:
                # A requested name also matches columns of which it is a dotted prefix: select what was meant.
                table = self._open(path).read_row_group(group, columns=list(columns)).select(columns)
            except (pa.ArrowException, OSError) as error:
                raise DataError(_damaged(path, error)) from None
            self._groups[key] = table
            self._cached += table.nbytes
            while self._cached > CACHE_BYTES and len(self._groups) > 1:
                self._cached -= self._groups.popitem(last=False)[1].nbytes
        self._groups.move_to_end(key)
        return self._groups[key]


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A whole small file; raises DataError when it is missing, damaged or lacks a column."""
    try:
        file = pq.ParquetFile(path)
        missing = sorted(set(columns or []) - set(file.schema_arrow.names))
        if missing:
            raise DataError(
                f"{path}: expected the columns {', '.join(columns or [])}, "
                f"found no {', '.join(missing)} among {', '.join(file.schema_arrow.names)}. Repair the dataset."
            )
        return file.read(columns=columns)
    except FileNotFoundError:
        raise DataError(f"{path}: expected a Parquet file, found none. Download the dataset again.") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(_damaged(path, error)) from None


def _damaged(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path}: expected a complete Parquet file, found one that cannot be read ({reason}). Download it again."
