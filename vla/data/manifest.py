"""`manifest.json`: which files a dataset consists of, so that later stages notice when the data changed.

Files that we wrote carry a SHA-256. Files read in place (`root` set) carry size and mtime only: terabytes are never
hashed. The dataset digest is over the manifest, not over the data.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from vla import artifacts
from vla.errors import DataError
from vla.paths import below

FILE_NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One data file."""

    path: str
    """Relative to the dataset's root, with forward slashes."""
    size: int
    mtime_ns: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a dataset and where it came from."""

    format: str
    source: dict[str, Any]
    """Kind of source and its settings."""
    root: str | None
    """Absolute folder of a dataset read in place; None when the files lie beside the manifest."""
    files: tuple[FileEntry, ...]

    @classmethod
    def describe(
        cls, files: Iterable[Path], *, root: Path, format_name: str, source: dict[str, Any], in_place: bool
    ) -> Self:
        """Describe `files` (absolute, below `root`)."""
        entries = []
        for file in sorted(files):
            status = file.stat()
            entries.append(
                FileEntry(
                    path=file.relative_to(root).as_posix(),
                    size=status.st_size,
                    mtime_ns=status.st_mtime_ns if in_place else None,
                    sha256=None if in_place else artifacts.digest_of_file(file),
                )
            )
        return cls(format_name, source, str(root.resolve()) if in_place else None, tuple(entries))

    @property
    def digest(self) -> str:
        """Identity of the data: equal for equal files from an equal source."""
        return artifacts.digest_of_value([self.format, self.root, [asdict(entry) for entry in self.files]])

    def write(self, dataset: Path) -> None:
        artifacts.write_json(dataset / FILE_NAME, {**asdict(self), "digest": self.digest})

    @classmethod
    def read(cls, dataset: Path) -> Self:
        values = artifacts.read_json(dataset / FILE_NAME, made_by="dvc repro download")
        try:
            files = tuple(FileEntry(**entry) for entry in values["files"])
            return cls(values["format"], values["source"], values["root"], files)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{dataset / FILE_NAME}: expected a dataset manifest, {error}. Run 'dvc repro -f -s download'."
            ) from None

    def folder(self, dataset: Path) -> Path:
        """Where the data files are."""
        return Path(self.root) if self.root else dataset

    def verify(self, dataset: Path) -> None:
        """Raise DataError when a file is missing or has another size or mtime than listed; reads no contents."""
        folder = self.folder(dataset)
        for entry in self.files:
            file = below(folder, entry.path, where=str(dataset / FILE_NAME))
            try:
                status = file.stat()
            except FileNotFoundError:
                raise DataError(f"{file}: expected a data file, found none. Run 'dvc repro -f -s download'.") from None
            if status.st_size != entry.size or (entry.mtime_ns is not None and status.st_mtime_ns != entry.mtime_ns):
                raise DataError(
                    f"{file}: expected {entry.size} bytes as listed at download, found {status.st_size} bytes or a "
                    f"newer file: the data changed. Run 'dvc repro -f -s download' to take the new data."
                )
