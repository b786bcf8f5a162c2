"""Files that a project needs and does not own, such as a pretrained tokenizer: found offline first.

A source without revision is a path. One with a revision is a repository of the Hugging Face Hub at that commit, looked
for in the folder `<VLA_ASSETS>/<owner>--<name>/<revision>`, then in the hub's cache, then on the hub unless
HF_HUB_OFFLINE is set. `VLA_ASSETS` is only read: it may be a folder that many share and few may write, and one
`hf download --local-dir` fills it. The commit is a part of its path because nothing else there says what the files are.

Whoever uses an asset records its digest.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Annotated

from huggingface_hub import constants
from pydantic import Field, model_validator

from vla import artifacts, hub, workspace
from vla.config import Config
from vla.errors import DataError

VLA_ASSETS = "VLA_ASSETS"
SHOWN = 5
"""Files that a message names, at most."""


class AssetSource(Config):
    """Where files come from that are not the project's own."""

    source: Annotated[str, Field(min_length=1)]
    """A file or folder, relative to the project; with `revision` the `owner/name` of a repository."""
    revision: str | None = None
    """Commit hash, 40 hexadecimal digits; null for a path."""

    @model_validator(mode="after")
    def _a_revision_is_of_a_repository(self) -> "AssetSource":
        if self.revision is not None and not re.match(hub.NAME, self.source):
            raise ValueError(f"expected a source OWNER/NAME beside a revision, found {self.source!r}")
        return self


@dataclass(frozen=True, slots=True)
class Asset:
    """Files that have been found; all of them exist."""

    root: Path
    names: tuple[str, ...]
    """Relative to `root`, sorted."""

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [self.root / name for name in self.names]

    def digest(self) -> str:
        """SHA-256 over names and contents."""
        return artifacts.digest_of_files(self.paths, root=self.root)


def find(source: AssetSource, files: Sequence[str], *, where: str) -> Asset:
    """The files of a source that match the patterns (`*` matches `/` too), at least one for each.

    `where` is the parameter that holds the source. For one pattern the source may be the path of a file, whatever its
    name. Raises DataError that lists where it has looked, and ConfigError for a branch or a tag.
    """
    if source.revision is None:
        return _at_path(local_path(source, where=where), files, where=where)
    repository = hub.Repository(source.source, source.revision, kind="model", setting=f"{where}.source")
    repository.check_pinned()
    looked = []
    for look in (_in_folder, _in_cache):
        found = look(repository, files)
        if isinstance(found, Asset):
            return found
        looked.append(found)
    if constants.HF_HUB_OFFLINE:
        raise DataError(
            f"{where}: expected {' and '.join(files)} of {repository.name} at {repository.revision}, found "
            f"{', '.join(looked)}, and HF_HUB_OFFLINE is set. {_advice(repository, files)}"
        )
    try:
        return _from_hub(repository, files)
    except DataError as error:
        raise DataError(f"{where}: {error} Looked elsewhere before: {', '.join(looked)}.") from None


def local_path(source: AssetSource, *, where: str) -> Path:
    """Where a source without revision lies; raises DataError when there is nothing."""
    path = workspace.main_checkout() / source.source
    if not path.exists():
        raise DataError(
            f"{where}: expected a file or folder, found none at {path}. Correct {where}.source; for a repository of "
            f"the Hub set {where}.revision to its commit."
        )
    return path


def _at_path(path: Path, files: Sequence[str], *, where: str) -> Asset:
    if path.is_file() and len(files) == 1:
        return Asset(path.parent, (path.name,))
    present = _names(path)
    names, missing = _matching(files, present)
    if missing:
        raise DataError(
            f"{where}: expected {' and '.join(missing)} in {path}, found {_shown(present, missing)}. Correct "
            f"{where}.source."
        )
    return Asset(path, names)


def _in_folder(repository: hub.Repository, files: Sequence[str]) -> Asset | str:
    """What is in the folder of assets, or what is not."""
    assets = os.environ.get(VLA_ASSETS)
    if not assets:
        return f"{VLA_ASSETS} not set"
    folder = workspace.main_checkout() / assets / _place(repository)
    names, missing = _matching(files, _names(folder))
    return f"no {' and no '.join(missing)} in {folder} ({VLA_ASSETS})" if missing else Asset(folder, names)


def _in_cache(repository: hub.Repository, files: Sequence[str]) -> Asset | str:
    """What is in the hub's cache, or what is not."""
    known = repository.cached_names()
    # Without a list of the commit's files a name is found where it is there, and a pattern nowhere: it may match more.
    names, missing = (tuple(sorted(files)), []) if known is None else _matching(files, known)
    paths = [repository.cached(name) for name in names]
    missing += [name for name, path in zip(names, paths, strict=True) if path is None]
    first = paths[0] if paths else None
    if missing or first is None:
        return f"no {' and no '.join(missing)} of it in {constants.HF_HUB_CACHE} (HF_HOME)"
    return Asset(first.parents[len(PurePosixPath(names[0]).parts) - 1], names)


def _from_hub(repository: hub.Repository, files: Sequence[str]) -> Asset:
    root, listed = repository.listed()
    names, missing = _matching(files, listed)
    if missing:
        raise DataError(
            f"{repository.name}: expected {' and '.join(missing)} at {repository.revision}, found "
            f"{_shown(listed, missing)}. Correct {repository.setting}."
        )
    for name in names:
        repository.fetch(name)
    return Asset(root, names)


def _names(folder: Path) -> list[str]:
    """The files below a folder, without hidden ones: `hf download` keeps its notes in some."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]


def _matching(patterns: Sequence[str], names: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """The names that match a pattern, sorted, and the patterns that match no name."""
    found = {pattern: {name for name in names if fnmatchcase(name, pattern)} for pattern in patterns}
    return tuple(sorted(set().union(*found.values()))), [pattern for pattern, matched in found.items() if not matched]


def _shown(names: Iterable[str], missing: Sequence[str]) -> str:
    """What there is instead: files that are called like a missing one, if there are any."""
    wanted = {PurePosixPath(pattern).name for pattern in missing}
    found = sorted(names)
    alike = [name for name in found if PurePosixPath(name).name in wanted] or found
    return ", ".join([*alike[:SHOWN], *(["..."] if len(alike) > SHOWN else [])]) or "no files"


def _place(repository: hub.Repository) -> str:
    return f"{repository.name.replace('/', '--')}/{repository.revision}"


def _advice(repository: hub.Repository, files: Sequence[str]) -> str:
    """The command that puts the files where they are looked for."""
    patterns = " ".join(f"--include '{pattern}'" for pattern in files)
    return (
        f"Where there is a network, run: hf download {repository.name} --revision {repository.revision} {patterns}, "
        f"with the same HF_HOME or with --local-dir $VLA_ASSETS/{_place(repository)}."
    )
