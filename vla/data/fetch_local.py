"""Source `local`: a dataset that lies in a folder already, read in place (section `download.local`).

Nothing is copied and nothing is hashed. Of the files that the selected episodes need, size and time are noted, once.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import field_validator

from vla import workspace
from vla.config import Config
from vla.data.fetch import stat_files
from vla.data.manifest import FileEntry
from vla.errors import DataError
from vla.folder import Folder


class LocalConfig(Config):
    """Section `download.local`."""

    path: Path
    """Folder of the dataset: absolute, below ~, or relative to the project."""

    @field_validator("path", mode="before")
    @classmethod
    def _is_said(cls, path: Any) -> Any:
        """An empty text would be the project's own folder."""
        if isinstance(path, str) and not path.strip():
            raise ValueError(f"expected a folder, found {path!r}. Set it.")
        return path


class LocalOrigin:
    """A folder; implements `vla.data.fetch.Origin`."""

    def __init__(self, root: Path) -> None:
        self.folder = Folder(root)
        self._seen: dict[str, os.stat_result] = {}

    @classmethod
    def find(cls, cfg: LocalConfig, *, where: str) -> "LocalOrigin":
        """The folder of the settings; `where` is their section, for the message."""
        root = workspace.main_checkout() / cfg.path.expanduser()
        if not root.is_dir():
            raise DataError(f"{where}.path: expected a dataset folder, found none at {root}. Correct the path.")
        return cls(root)

    def present(self, names: Collection[str]) -> set[str]:
        """Those that exist."""
        self._look_at(names)
        return self._seen.keys() & set(names)

    def fetch(self, names: Collection[str]) -> None:
        """They are there."""

    def entries(self, names: Collection[str]) -> list[FileEntry]:
        """Size and time."""
        self._look_at(names)
        found = [(name, self._seen[name]) for name in sorted(names)]
        return [FileEntry(name, status.st_size, status.st_mtime_ns, sha256=None) for name, status in found]

    def _look_at(self, names: Collection[str]) -> None:
        self._seen.update(stat_files(self.folder.root, set(names) - self._seen.keys()))
