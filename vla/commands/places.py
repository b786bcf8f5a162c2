"""Where commands and stages write."""

import errno
import os
from pathlib import Path

from vla.errors import ConfigError


def require_new(out: Path) -> None:
    """Raise ConfigError where something is at `out`, which would be replaced, and OSError where nothing can be."""
    if out.exists():
        raise ConfigError(f"--out: expected a folder that is not there yet, found {out}. Remove it, or name another.")
    require_place(out)


def require_place(output: Path) -> None:
    """Raise OSError when `output` could not be made, before hours of work are spent on it."""
    place = next(folder for folder in output.absolute().parents if folder.exists())
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
