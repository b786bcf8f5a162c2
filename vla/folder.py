"""A dataset's folder: hands out the paths of its files and compares each with the manifest when it is first used.

A dataset of many files on a network disk is never looked over as a whole: a stage pays for the files that it reads,
once per process.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vla.errors import DataError
from vla.paths import below

REFRESH = "Run 'dvc repro -f -s download' to take the data as they are now."
MISPLACED = "If it is elsewhere or of another format, correct the section download or data.format."


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What the manifest says about a file."""

    size: int
    mtime_ns: int | None
    """None where the file is identified by its hash."""


class Folder:
    """The folder `root`; `listed` is None where no manifest exists yet, and then nothing is compared."""

    def __init__(self, root: Path, listed: Mapping[str, FileStamp] | None = None) -> None:
        self.root, self.listed = root, listed
        self._seen: set[str] = set()

    def path(self, relative: str | Path) -> Path:
        """The path of a file; raises DataError when it leaves the folder, is missing, or changed since download."""
        name = Path(relative).as_posix()
        path = below(self.root, name, where=str(self.root))
        if name not in self._seen:
            self._compare(name, path)
            self._seen.add(name)
        return path

    def paths(self, names: Iterable[str]) -> list[Path]:
        """The paths of several files that are read together."""
        return [self.path(name) for name in names]

    def has(self, relative: str | Path) -> bool:
        """Whether there is such a file: one of the manifest's, where there is one."""
        name = Path(relative).as_posix()
        return (self.root / name).is_file() if self.listed is None else name in self.listed

    def names(self, below: str = "", suffix: str = "") -> list[str]:
        """The files below the folder `below` whose names end with `suffix`, relative to the root, sorted.

        They are those of the manifest where there is one, so that a file that came later is not read unnoticed;
        elsewhere those that are there. Hidden ones are left out.
        """
        return matching(_walk(self.root / below, self.root) if self.listed is None else self.listed, below, suffix)

    def _compare(self, name: str, path: Path) -> None:
        try:
            status = path.stat()
        except FileNotFoundError:
            # Without a manifest it is the download that fails, and to run that again is no help.
            advice = MISPLACED if self.listed is None else REFRESH
            raise DataError(f"{path}: expected a file, found none. Complete the dataset. {advice}") from None
        if self.listed is None:
            return
        if name not in self.listed:
            raise DataError(f"{path}: expected a file that the manifest lists, found a new one. {REFRESH}")
        known = self.listed[name]
        if status.st_size != known.size:
            raise DataError(f"{path}: expected {known.size} bytes as at download, found {status.st_size}. {REFRESH}")
        if known.mtime_ns is not None and status.st_mtime_ns != known.mtime_ns:
            raise DataError(f"{path}: expected the file as it was at download, found one written since. {REFRESH}")


def _walk(folder: Path, root: Path) -> Iterator[str]:
    """The files below `folder`, by its listings alone: a network disk is not asked about every file."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        above = Path(place).relative_to(root)
        yield from ((above / name).as_posix() for name in files if not name.startswith("."))


def matching(names: Iterable[str], below: str, suffix: str) -> list[str]:
    """Those of the names that lie below a folder and end with `suffix`, sorted."""
    start = f"{below}/" if below else ""
    return sorted(name for name in names if name.startswith(start) and name.endswith(suffix))
