"""The metrics of a training run in a local file, one JSON row per line; what the tracking server gets is a copy of it.

Training only ever writes here, so a slow or dead server costs it nothing. A row is one `write`, so a process that is
killed leaves at most one torn last line, which the next writer drops. Rows are forced to the disk with each checkpoint:
those after it are trained again. This module imports no mlflow, because every training worker reads it.
"""

import errno
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from vla import artifacts
from vla.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """Metrics of one optimizer step; a step may have several rows with different names."""

    step: int
    seconds: float
    """Time spent training until this row, over all resumes."""
    metrics: Mapping[str, float]


class Journal:
    """The one writer of a journal; opening continues the file at `path` after its last complete row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reopen(list(read(path)))

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a row; it is visible to readers when this returns. Raises OSError when the disk takes no whole one."""
        row = Row(step, round(self._seconds_before + time.monotonic() - self._opened, 3), metrics)
        line = (json.dumps(asdict(row), sort_keys=True) + "\n").encode()
        try:
            whole = os.write(self._descriptor, line) == len(line)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None  # it does not know of whom
        if not whole:
            # What did fit is a torn last line, after which nothing may be written.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def sync(self) -> None:
        """Force all rows to the disk."""
        os.fsync(self._descriptor)

    def truncate_after(self, step: int) -> None:
        """Remove the rows of later steps: a resume from the checkpoint of `step` writes them again."""
        self.close()
        self._reopen([row for row in read(self.path) if row.step <= step])

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reopen(self, kept: list[Row]) -> None:
        """Make the file hold `kept` and open it; readers see the old file or the new one, never a part."""
        text = "".join(json.dumps(asdict(row), sort_keys=True) + "\n" for row in kept)
        if not self.path.is_file() or self.path.read_bytes() != text.encode():
            artifacts.write_text(self.path, text)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self._seconds_before = kept[-1].seconds if kept else 0.0
        self._opened = time.monotonic()


class Tail:
    """Follows a journal that another process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset, self._last = 0, b""
        """Behind the last row that was given, and that row."""

    def new_rows(self) -> list[Row]:
        """The complete rows added since the last call; all rows again after the writer has truncated the file."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as stream:
            # Neither inode nor size tells: a file system may give a replaced file's inode to the next, longer one.
            stream.seek(self._offset - len(self._last))
            if stream.read(len(self._last)) != self._last:
                self._offset, self._last = stream.seek(0), b""
            text = stream.read()
        lines = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
        self._offset += sum(map(len, lines))
        self._last = lines[-1] if lines else self._last
        return [_parse(line, self.path) for line in lines]


def read(path: Path) -> Iterator[Row]:
    """The complete rows at `path` in order; a torn last line is left out, a missing file has no rows."""
    if path.is_file():
        with path.open("rb") as stream:
            for line in stream:
                if line.endswith(b"\n"):
                    yield _parse(line, path)


def _parse(line: bytes, path: Path) -> Row:
    try:
        values = json.loads(line)
        return Row(int(values["step"]), float(values["seconds"]), values["metrics"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected rows with step, seconds and metrics, found {line[:80]!r} ({error}). "
            f"Restore the file with 'dvc checkout --force', or delete it and train again."
        ) from None
