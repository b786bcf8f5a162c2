"""Unpacking an archive that comes from outside: only ordinary files, all of them below the target folder."""

import os
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from vla import artifacts
from vla.errors import DataError
from vla.paths import below

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def is_archive(path: str) -> bool:
    """Whether the name is one of an archive that can be unpacked."""
    return path.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack into the new `folder`, which exists when all of it is there.

    Raises DataError for a damaged archive, and for one with a path that leads out of the folder, or with a link or a
    device: a dataset needs none.
    """
    with artifacts.new_directory(folder) as partial, _damage_explained(archive):
        members = _zip_members(archive) if archive.name.lower().endswith(".zip") else _tar_members(archive)
        for name, modified, stream in members:
            target = below(partial, name, where=str(archive))
            target.parent.mkdir(parents=True, exist_ok=True)
            with stream, target.open("wb") as out:
                shutil.copyfileobj(stream, out, 1 << 20)
            # The times of the archive, not of today: they tell files in place apart (vla/data/manifest.py).
            os.utime(target, (modified, modified))


def content_root(folder: Path) -> Path:
    """The folder itself, or the one that all of its contents lie in, as most archives have it."""
    inside = list(folder.iterdir())
    return content_root(inside[0]) if len(inside) == 1 and inside[0].is_dir() else folder


def _zip_members(archive: Path) -> Iterator[tuple[str, float, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            kind = member.external_attr >> 28  # upper bits of the Unix mode: 8 is a file, 10 a link, 0 unknown
            if kind not in (0, 4, 8):
                raise DataError(
                    f"{archive}: expected ordinary files, found {member.filename!r}. Pack it without links."
                )
            if not member.is_dir():
                modified = time.mktime((*member.date_time, 0, 0, -1))
                yield member.filename, modified, opened.open(member)


def _tar_members(archive: Path) -> Iterator[tuple[str, float, IO[bytes]]]:
    with tarfile.open(archive) as opened:
        for member in opened:
            if not (member.isfile() or member.isdir()):
                raise DataError(f"{archive}: expected ordinary files, found {member.name!r}. Pack it without links.")
            stream = opened.extractfile(member)
            if stream is not None:
                yield member.name, member.mtime, stream


@contextmanager
def _damage_explained(archive: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: expected a complete archive, found {error}. Delete it and run again.") from None
