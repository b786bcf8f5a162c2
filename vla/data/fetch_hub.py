"""Source `hub`: a dataset repository of the Hugging Face Hub at one commit (section `download.hub`).

The files stay in the hub's own cache, shared with every other project, and the manifest points there (`vla/hub.py`).
"""

from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from huggingface_hub import constants
from huggingface_hub.utils.tqdm import disable_progress_bars
from pydantic import Field

from vla import artifacts, hub
from vla.config import Config
from vla.data.fetch import FetchingFolder, check_space, described, in_parallel
from vla.data.manifest import FileEntry
from vla.data.transfer import Tell
from vla.errors import DataError
from vla.folder import Folder
from vla.paths import below


class HubConfig(Config):
    """Section `download.hub`."""

    repo: Annotated[str, Field(pattern=hub.NAME)]
    """`owner/name` of a dataset repository."""
    revision: str
    """Commit hash, 40 hexadecimal digits: a branch or a tag may point to other data tomorrow."""
    allow: tuple[str, ...] | None = None
    """Only files that match one of these patterns, such as `data/*`, count as there; null for all."""


class HubOrigin:
    """A repository at one commit; implements `vla.data.fetch.Origin`."""

    def __init__(self, cfg: HubConfig, *, where: str) -> None:
        self._repository = hub.Repository(cfg.repo, cfg.revision, kind="dataset", setting=f"{where}.repo")
        self._repository.check_pinned()
        disable_progress_bars()  # one for every file
        root, listed = self._repository.listed()
        self._sizes = {name: size for name, size in listed.items() if _allowed(name, cfg.allow)}
        self.folder: Folder = FetchingFolder(root, self._sizes, self.fetch)

    def present(self, names: Collection[str]) -> set[str]:
        """Those that the repository has."""
        return self._sizes.keys() & set(names)

    def fetch(self, names: Collection[str]) -> None:
        """Download what the cache lacks."""
        root, repo = self.folder.root, self._repository.name
        missing = [name for name in names if not below(root, name, where=repo).exists()]
        if missing and constants.HF_HUB_OFFLINE:
            raise DataError(
                f"{repo}: expected {len(names)} files in {root}, found {len(missing)} of them missing, "
                f"the first is {missing[0]}, and HF_HUB_OFFLINE is set. Run the download stage once where there is a "
                f"network, with the same HF_HOME."
            )
        if missing:
            total = sum(self._sizes[name] for name in missing)
            check_space(root, total)
            in_parallel(self._get, missing, total=total)

    def entries(self, names: Collection[str]) -> list[FileEntry]:
        """By the hub's hash."""
        return described(self.folder.root, names, {name: _sha256(self.folder.root / name) for name in names})

    def _get(self, name: str, tell: Tell) -> None:
        self._repository.fetch(name)
        tell(self._sizes[name])


def _allowed(name: str, patterns: Collection[str] | None) -> bool:
    return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)


def _sha256(path: Path) -> str | None:
    """The hash of a file in the cache, by which the cache names it: SHA-256 of large files, git's own of small ones.

    None where the cache could not make links and the names of its files say nothing.
    """
    if not path.is_symlink():
        return None
    name = path.readlink().name
    return name if len(name) == 64 else artifacts.digest_of_file(path)
