"""Unpacking an archive that comes from outside: only ordinary files, all of them below the target folder."""

import calendar
import lzma
import os
import shutil
import tarfile
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
DAMAGES = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)
"""Errors that damage gives, beside the OSError without a number that bz2 and gzip raise."""


def is_archive(path: str) -> bool:
    """Whether the name is one of an archive that can be unpacked."""
    return path.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack into the new `folder`, which exists when all of it is there.

    Raises DataError for an archive that is damaged, encrypted or packed by an unknown method, and for one with a path
    that leads out of the folder or through a file, or with a link or a device: a dataset needs none.
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
                yield member.filename, _zip_time(member), opened.open(member)


def _zip_time(member: zipfile.ZipInfo) -> float:
    """Seconds since 1970, as if written in UTC: the archive does not tell its time zone, and all machines agree."""
    year, month, day, *clock = member.date_time
    # A time that nobody set has month 0 and day 0.
    return calendar.timegm((year, min(max(month, 1), 12), max(day, 1), *clock))


def _tar_members(archive: Path) -> Iterator[tuple[str, float, IO[bytes]]]:
    with tarfile.open(archive) as opened:
        for member in opened:
            if not (member.isfile() or member.isdir()):
                raise DataError(f"{archive}: expected ordinary files, found {member.name!r}. Pack it without links.")
            stream = opened.extractfile(member)
            if stream is not None:
                yield member.name, member.mtime, stream
        # The checksum of a compressed archive comes after the padding that ends the list of files.
        while opened.fileobj is not None and opened.fileobj.read(1 << 20):
            pass


@contextmanager
def _damage_explained(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGES as error:
        raise DataError(_damaged(archive, error)) from None
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        path = Path(str(error.filename)).name
        raise DataError(
            f"{archive}: expected paths of files, found {path!r} as a file and as a folder. Pack it again."
        ) from None
    except RuntimeError as error:  # zipfile's for encryption, and NotImplementedError for methods
        raise DataError(
            f"{archive}: expected an archive without a password and of a common method, found {error}. Pack it again."
        ) from None
    except OSError as error:
        if error.errno is not None:
            raise  # of this machine's disk
        raise DataError(_damaged(archive, error)) from None


def _damaged(archive: Path, error: Exception) -> str:
    return f"{archive}: expected a complete archive, found {error}. Delete it and run again."
