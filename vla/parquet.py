"""Rows of Parquet files: the last files stay open, and the last columns of row groups stay in memory.

Opening a file and decoding a row group cost milliseconds, a slice of a decoded one costs nothing, and readers ask for
neighbouring rows again and again. Columns of images in long row groups are not kept but streamed: pyarrow cannot skip
to a row, but it passes over some GB of encoded images per second, holds little of them, and whoever reads on goes on
from where the last reading ended. Whoever jumps about in such a row group passes over half of it each time.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from vla.errors import DataError
from vla.registry import did_you_mean

OPEN_FILES, OPEN_STREAMS = 32, 8
CACHE_BYTES = 256_000_000
"""What the columns in memory may take."""
COLUMN_BYTES = 16_000_000
"""A column of a row group that is larger than this is streamed."""
BUFFER_BYTES = 1_000_000
"""What a stream reads of a file at a time, and about what it decodes at a time."""
BATCH_ROWS = 65_536


class ParquetRows:
    """Rows of many files, for one thread. Copies sent to other processes start with nothing open.

    All errors are DataError and name the file.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[Path, _File] = OrderedDict()
        self._columns: OrderedDict[tuple[Path, int, str], pa.ChunkedArray] = OrderedDict()
        self._cached = 0
        self._streams: OrderedDict[tuple[Path, int, str], _Stream] = OrderedDict()

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), ()

    def read(self, path: Path, start: int, stop: int, columns: tuple[str, ...]) -> pa.Table:
        """Rows [start, stop) of a file; raises DataError when the file is damaged, too short or lacks a column."""
        file = self._open(path)
        for column in columns:
            if column not in file.names:
                raise DataError(
                    f"{path}: expected the column {column!r}, found {', '.join(file.names)}."
                    f"{did_you_mean(column, file.names)} Correct data.columns or repair the dataset."
                )
        count = self.count(path)
        if stop > count:
            raise DataError(
                f"{path}: expected at least {stop} rows, found {count}: the file is incomplete. "
                f"Download the dataset again."
            )
        if start >= stop:
            return file.parquet.schema_arrow.empty_table().select(columns)
        pieces = []
        first, last = np.searchsorted(file.ends_G, [start, stop - 1], side="right").tolist()
        for group in range(first, last + 1):
            offset, end = int(file.starts_G[group]), int(file.ends_G[group])
            pieces.append(self._read_group(path, group, max(start - offset, 0), min(stop, end) - offset, columns))
        return pieces[0] if len(pieces) == 1 else pa.concat_tables(pieces)

    def schema(self, path: Path) -> pa.Schema:
        """The columns of a file."""
        return self._open(path).parquet.schema_arrow

    def count(self, path: Path) -> int:
        """Rows of a file."""
        return int(self._open(path).parquet.metadata.num_rows)

    def group_starts(self, path: Path) -> Int64[np.ndarray, "G"]:
        """The first row of each row group: reading can begin there without decoding what lies before."""
        return self._open(path).starts_G

    def _open(self, path: Path) -> "_File":
        if path not in self._files:
            with _damage_explained(path):
                self._files[path] = _File(pq.ParquetFile(path, page_checksum_verification=True))
            if len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)[1].parquet.close()
        self._files.move_to_end(path)
        return self._files[path]

    def _read_group(self, path: Path, group: int, start: int, stop: int, columns: tuple[str, ...]) -> pa.Table:
        """Rows [start, stop) of a row group."""
        file = self._open(path)
        large = {column for column in columns if file.nbytes(group, column) > COLUMN_BYTES}
        self._keep(path, group, [column for column in columns if column not in large])
        arrays = [
            self._read_stream(path, group, column, start, stop)
            if column in large
            else self._columns[path, group, column].slice(start, stop - start)
            for column in columns
        ]
        return pa.table(arrays, names=list(columns))

    def _keep(self, path: Path, group: int, columns: list[str]) -> None:
        """Have columns of a row group in memory."""
        missing = [column for column in columns if (path, group, column) not in self._columns]
        if missing:
            with _damage_explained(path):
                table = self._open(path).parquet.read_row_group(group, columns=missing, use_threads=False)
            # A requested name also matches columns of which it is a dotted prefix: these are left behind.
            for column in missing:
                self._columns[path, group, column] = table[column]
                self._cached += table[column].nbytes
        for column in columns:
            self._columns.move_to_end((path, group, column))
        while self._cached > CACHE_BYTES and len(self._columns) > len(columns):
            self._cached -= self._columns.popitem(last=False)[1].nbytes

    def _read_stream(self, path: Path, group: int, column: str, start: int, stop: int) -> pa.ChunkedArray:
        """Rows [start, stop) of a large column of a row group."""
        stream = self._streams.pop((path, group, column), None)
        if stream is None or stream.start > start:
            stream = _Stream(path, self._open(path), group, column)
        with ExitStack() as on_error:
            # After an error pyarrow cannot say where a stream stands: whoever reads next begins a new one.
            on_error.callback(stream.close)
            values = stream.read(start, stop)
            on_error.pop_all()
        self._streams[path, group, column] = stream
        if len(self._streams) > OPEN_STREAMS:
            self._streams.popitem(last=False)[1].close()
        return values


class _File:
    """An open file."""

    def __init__(self, parquet: pq.ParquetFile) -> None:
        self.parquet, self.names = parquet, parquet.schema_arrow.names
        self._sizes: dict[tuple[int, str], int] = {}
        metadata = parquet.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.ends_G = np.cumsum(counts, dtype=np.int64)
        self.starts_G = self.ends_G - counts

    def nbytes(self, group: int, column: str) -> int:
        """Decoded size of a column of a row group; the format has one chunk for each field of a struct."""
        if (group, column) not in self._sizes:
            chunks = self.parquet.metadata.row_group(group)
            sizes = [chunks.column(index).total_uncompressed_size for index in self._chunks[column]]
            self._sizes[group, column] = sum(sizes)
        return self._sizes[group, column]

    @cached_property
    def _chunks(self) -> dict[str, list[int]]:
        """Column -> its chunks."""
        schema = self.parquet.metadata.schema
        paths = [f"{schema.column(index).path}." for index in range(len(schema))]
        return {name: [i for i, path in enumerate(paths) if path.startswith(f"{name}.")] for name in self.names}


class _Stream:
    """A column of a row group, read from its beginning on."""

    def __init__(self, path: Path, file: _File, group: int, column: str) -> None:
        rows = int(file.ends_G[group] - file.starts_G[group])
        self._path, self._column = path, column
        # With `pre_buffer` the whole column would be read at once.
        with _damage_explained(path):
            self._parquet = pq.ParquetFile(
                path,
                metadata=file.parquet.metadata,
                buffer_size=BUFFER_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
            )
        self._batches: Iterator[pa.RecordBatch] = self._parquet.iter_batches(
            batch_size=max(1, rows * BUFFER_BYTES // file.nbytes(group, column)),
            row_groups=[group],
            columns=[column],
            use_threads=False,
        )
        self._held: deque[pa.Array] = deque()
        self.start = self._end = 0
        """The rows [start, end) are held."""

    def read(self, start: int, stop: int) -> pa.ChunkedArray:
        """Rows [start, stop), not before `self.start`; what lies before them is forgotten."""
        while self._end < stop:
            with _damage_explained(self._path):
                batch = next(self._batches, None)
            if batch is None:
                raise DataError(
                    f"{self._path}: {self._column}: expected at least {stop} rows in the row group, "
                    f"found {self._end}: the file is damaged. Download it again."
                )
            values = batch.column(self._column)
            self._held.append(values)
            self._end += len(values)
            while self._held and self.start + len(self._held[0]) <= start:
                self.start += len(self._held.popleft())
        return pa.chunked_array(list(self._held)).slice(start - self.start, stop - start)

    def close(self) -> None:
        self._parquet.close()


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A whole small file; raises DataError when it is missing, damaged or lacks a column."""
    with _damage_explained(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
        _check_columns(path, file, columns or [])
        return file.read(columns=columns)


def read_batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """A file of any length, some rows at a time; texts come as dictionaries. Raises DataError as `read_table` does."""
    with _damage_explained(path):
        texts = [field.name for field in pq.read_schema(path) if pa.types.is_string(field.type)]
        file = pq.ParquetFile(path, read_dictionary=texts, pre_buffer=False, page_checksum_verification=True)
        _check_columns(path, file, columns)
        batches = file.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False)
    while True:
        with _damage_explained(path):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _check_columns(path: Path, file: pq.ParquetFile, columns: list[str]) -> None:
    missing = sorted(set(columns) - set(file.schema_arrow.names))
    if missing:
        raise DataError(
            f"{path}: expected the columns {', '.join(columns)}, "
            f"found no {', '.join(missing)} among {', '.join(file.schema_arrow.names)}. Repair the dataset."
        )


@contextmanager
def _damage_explained(path: Path) -> Iterator[None]:
    """Turn what pyarrow has to say about a file into a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: expected a Parquet file, found none. Download the dataset again.") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: expected a complete Parquet file, found one that cannot be read ({reason}). Download it again."
        ) from None
