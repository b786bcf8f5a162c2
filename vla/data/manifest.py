"""`manifest.json`: which files a dataset consists of, so that later stages notice when the data changed.

Files that we wrote carry a SHA-256, and so do fetched ones whose source tells it. All others carry size and mtime only:
terabytes are never hashed. The dataset digest is over the manifest, not over the data.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from vla import artifacts
from vla.errors import DataError
from vla.folder import FileStamp

FILE_NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One data file."""

    path: str
    """Relative to the dataset's root, with forward slashes."""
    size: int
    mtime_ns: int | None
    """None where the hash is known."""
    sha256: str | None

    def plain(self) -> dict[str, Any]:
        """JSON-ready values, without the deep copies that `asdict` makes of tens of thousands."""
        return {"path": self.path, "size": self.size, "mtime_ns": self.mtime_ns, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a dataset and where it came from."""

    format: str
    source: dict[str, Any]
    """Kind of source and its settings."""
    root: str | None
    """Absolute folder of a dataset read in place; None when the files lie beside the manifest."""
    files: tuple[FileEntry, ...]
    code: str | None = None
    """Digest of the format's code, for the further sources of a mixture; None where DVC watches it."""
    mixture: dict[str, str] | None = None
    """Name -> manifest digest of the further sources, in the main one's manifest."""
    left_out: dict[str, int] | None = None
    """Reason -> number of episodes whose files were not looked for; None where all of the dataset is here."""

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
        """Identity of the data as read: equal for equal files, wherever they lie if all their hashes are known."""
        root = None if all(entry.sha256 for entry in self.files) else self.root
        identity = [self.format, root, [entry.plain() for entry in self.files]]
        further = [part for part in (self.mixture, self.code) if part]
        return artifacts.digest_of_value([*identity, *further])

    @property
    def listed(self) -> dict[str, FileStamp]:
        """Path -> size and mtime, as a reader compares them."""
        return {entry.path: FileStamp(entry.size, entry.mtime_ns) for entry in self.files}

    def write(self, dataset: Path) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        files = [entry.plain() for entry in self.files]
        artifacts.write_json(dataset / FILE_NAME, {**values, "files": files, "digest": self.digest})

    @classmethod
    def read(cls, dataset: Path) -> Self:
        values = artifacts.read_json(dataset / FILE_NAME, made_by="dvc repro download")
        try:
            files = tuple(FileEntry(**entry) for entry in values["files"])
            described = (values["format"], values["source"], values["root"], files)
            further = {key: values[key] for key in ("code", "mixture", "left_out")}
            return cls(*described, **further)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{dataset / FILE_NAME}: expected a dataset manifest, {error}. Run 'dvc repro -f -s download'."
            ) from None

    def folder(self, dataset: Path) -> Path:
        """Where the data files are."""
        return Path(self.root) if self.root else dataset
