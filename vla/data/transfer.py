"""Bringing one remote file here: resumable, verified, complete when it has its name."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from vla import artifacts
from vla.data.remote import Interrupted, Reader, RemoteFile
from vla.errors import DataError

ATTEMPTS = 5
"""Tries without getting further, after which a transfer is given up."""
PAUSE = 1.0
"""Seconds before the second try, doubled for each one after it."""
Tell = Callable[[int], object]
"""Is told the bytes that have arrived since it was told last."""
PART = ".part"
"""Ending of a file that is not complete yet; its name begins with a dot."""
log = logging.getLogger(__name__)


def bring(source: Reader, file: RemoteFile, path: Path, *, tell: Tell) -> None:
    """Make `path` the complete file and `tell` the bytes as they arrive. What is there already is not read again.

    A part that an earlier try left is continued. The local file gets the time of the remote one, by which it is
    recognised later. Raises DataError when the connection keeps breaking, or when the contents are not the listed ones.
    """
    if is_complete(file, path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    version = artifacts.digest_of_value([file.size, file.time, file.sha256])[:8]
    part = path.with_name(f".{path.name}.{version}{PART}")
    _persist(lambda: _go_on(source, file, part, tell), part, path.name)
    _verify(file, part, path.name)
    if file.time is not None:
        os.utime(part, (file.time, file.time))
    part.replace(path)


def is_complete(file: RemoteFile, path: Path) -> bool:
    """Whether `path` holds the file: it got its name when it was verified, and its remote twin has not changed."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    same_size = file.size is None or status.st_size == file.size
    return same_size and (file.time is None or abs(status.st_mtime - file.time) < 1e-3)


def _go_on(source: Reader, file: RemoteFile, part: Path, tell: Tell) -> None:
    """Append to what is there already what lies behind it."""
    with part.open("ab") as out:
        start = out.tell()
        if start and start == file.size:
            return
        for offset, piece in source.read(file.name, start):
            if offset != out.tell():
                out.truncate(offset)
                out.seek(offset)
            out.write(piece)
            tell(len(piece))


def _persist(call: Callable[[], None], part: Path, name: str) -> None:
    """Call until it succeeds; ATTEMPTS failures in which the file did not grow beyond what it was are too many."""
    failures, longest = 0, -1
    while True:
        try:
            call()
        except Interrupted as error:
            length = part.stat().st_size
            failures, longest = (failures + 1, longest) if length <= longest else (1, length)
            if failures == ATTEMPTS:
                raise DataError(
                    f"{name}: expected a complete transfer, found the connection broken {ATTEMPTS} times ({error}). "
                    f"Check the network and run again: it goes on at byte {length}."
                ) from None
            log.warning("%s: %s; trying again from byte %d", name, error, length)
            time.sleep(PAUSE * 2 ** (failures - 1))
        else:
            return


def _verify(file: RemoteFile, part: Path, name: str) -> None:
    """Remove the part and raise DataError unless it is what was listed."""
    size = part.stat().st_size
    if file.size is not None and size != file.size:
        part.unlink()
        raise DataError(f"{name}: expected {file.size} bytes, found {size}. Run again.")
    if file.sha256 is not None and (found := artifacts.digest_of_file(part)) != file.sha256:
        part.unlink()
        raise DataError(
            f"{name}: expected sha256 {file.sha256}, found {found}. Run again; if it stays so, the file or the "
            f"list of checksums is another one than you think."
        )
