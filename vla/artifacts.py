"""Files that are complete when they exist: every artifact is written to a temporary name, synced and renamed.

Also the digests by which artifacts are recognised. All digests are SHA-256 in hexadecimal.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vla.errors import DataError


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block succeeds and removed when it does not."""
    _make_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path` that replaces it when the block succeeds and is removed when it does not."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    _make_folder(path.parent)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        for item in [*partial.rglob("*"), partial]:
            if item.is_file():
                item.chmod(0o666 & ~_umask())  # some writers keep their files to themselves
            _sync(item)
        replaced = partial.with_name(f"{partial.name}.replaced")
        if path.exists():
            # Out of the way first: a removal that is interrupted would leave half of the old directory at `path`.
            path.rename(replaced)
        partial.rename(path)
        _sync(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_directory(path: Path) -> None:
    """Remove a directory under another name, so that an interruption never leaves a part of it at `path`.

    What cannot be removed yet, as a file that is open on a network file system, is left to `remove_leftovers`.
    """
    doomed = path.with_name(f".{path.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    _sync(path.parent)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what interrupted writes and removals left in `folder`; for the one process that writes there."""
    for leftover in folder.glob(".*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with suppress(OSError):  # a network file system keeps names of its own while a file is open
                leftover.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` with sorted keys and one trailing newline, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: Path, *, made_by: str) -> Any:
    """The JSON value at `path`; `made_by` names the command that makes the file, for the message."""
    return _read_json(path, missing=f"Run '{made_by}'.", damaged=f"Delete it and run '{made_by}'.")


def read_foreign_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file that another project has made."""
    values = _read_json(path, missing="Get it from where the files beside it come from.", damaged="Get it again.")
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(values).__name__}. Get it again.")
    return values


def _read_json(path: Path, *, missing: str, damaged: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: expected a file, found none. {missing}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected JSON, found {error}. {damaged}") from None


def digest_of_value(value: Any) -> str:
    """Digest of a JSON-ready value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_of_files(paths: Iterable[Path], *, root: Path) -> str:
    """Digest over names relative to `root` and contents; directories are walked, bytecode caches left out."""
    files: set[Path] = set()
    for path in paths:
        files.update(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else files.add(path)
    kept = sorted(file for file in files if "__pycache__" not in file.parts)
    return digest_of_value([[file.relative_to(root).as_posix(), digest_of_file(file)] for file in kept])


def _make_folder(folder: Path) -> None:
    """Make a folder, and sync the entries of all that are new: what is synced in a folder that is lost is lost too."""
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in new:
        _sync(place.parent)


def _sync(path: Path) -> None:
    """Flush a file or a directory entry to the disk, so that a rename never precedes its contents."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
