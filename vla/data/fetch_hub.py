"""Source `hub`: a dataset repository of the Hugging Face Hub at one commit (section `download.hub`).

The files stay in the hub's own cache, shared with every other project, and the manifest points there. Complete files
are never asked for again, a connection that breaks is continued, and with HF_HUB_OFFLINE=1 the cache is all there is.
The token comes from the environment (HF_TOKEN) or from `hf auth login`.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx2
from huggingface_hub import HfApi, constants, get_cached_repo_tree, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars
from pydantic import Field

from vla import artifacts
from vla.config import Config
from vla.data.fetch import FetchingFolder, check_space, described, in_parallel
from vla.data.manifest import FileEntry
from vla.data.transfer import Tell
from vla.errors import ConfigError, DataError
from vla.folder import Folder
from vla.paths import below

COMMIT = re.compile(r"[0-9a-f]{40}")
LISTED = ".gitattributes"
"""A small file that repositories have: asking for it makes the hub's library keep the list of all files."""


class HubConfig(Config):
    """Section `download.hub`."""

    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """`owner/name` of a dataset repository."""
    revision: str
    """Commit hash, 40 hexadecimal digits: a branch or a tag may point to other data tomorrow."""
    allow: tuple[str, ...] | None = None
    """Only files that match one of these patterns, such as `data/*`, count as there; null for all."""


class HubOrigin:
    """A repository at one commit; implements `vla.data.fetch.Origin`."""

    def __init__(self, cfg: HubConfig, *, where: str) -> None:
        if not COMMIT.fullmatch(cfg.revision):
            raise ConfigError(_unpinned(cfg, where))
        disable_progress_bars()  # one for every file
        self._download = partial(hf_hub_download, cfg.repo, repo_type="dataset", revision=cfg.revision)
        self._cfg = cfg
        with _explained(cfg):
            root = Path(snapshot_download(cfg.repo, repo_type="dataset", revision=cfg.revision, allow_patterns=LISTED))
            listed = get_cached_repo_tree(cfg.repo, repo_type="dataset", revision=cfg.revision)
        self._sizes = {file.path: file.size for file in listed if _allowed(file.path, cfg.allow)}
        self.folder: Folder = FetchingFolder(root, self._sizes, self.fetch)

    def present(self, names: Collection[str]) -> set[str]:
        """Those that the repository has."""
        return self._sizes.keys() & set(names)

    def fetch(self, names: Collection[str]) -> None:
        """Download what the cache lacks."""
        root = self.folder.root
        missing = [name for name in names if not below(root, name, where=self._cfg.repo).exists()]
        if missing and constants.HF_HUB_OFFLINE:
            raise DataError(
                f"{self._cfg.repo}: expected {len(names)} files in {root}, found {len(missing)} of them missing, "
                f"the first is {missing[0]}, and HF_HUB_OFFLINE is set. Run the download stage once where there is a "
                f"network, with the same HF_HOME."
            )
        if missing:
            total = sum(self._sizes[name] for name in missing)
            check_space(root, total)
            with _explained(self._cfg):
                in_parallel(self._get, missing, total=total)

    def entries(self, names: Collection[str]) -> list[FileEntry]:
        """By the hub's hash."""
        return described(self.folder.root, names, {name: _sha256(self.folder.root / name) for name in names})

    def _get(self, name: str, tell: Tell) -> None:
        try:
            self._download(name)
        except RuntimeError as error:  # hf_xet, which transfers large files, raises it for all that goes wrong
            raise DataError(_failed(self._cfg, error)) from None
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


def _unpinned(cfg: HubConfig, where: str) -> str:
    """What to say about a branch or a tag, with its commit where the hub can be asked."""
    found = f"{where}.revision: expected a commit hash of 40 hexadecimal digits, found {cfg.revision!r}"
    if constants.HF_HUB_OFFLINE:
        address = f"{constants.ENDPOINT}/datasets/{cfg.repo}"
        return f"{found}. 'git ls-remote {address} {cfg.revision}' prints the hash; set it."
    with _explained(cfg):
        commit = HfApi().dataset_info(cfg.repo, revision=cfg.revision).sha
    return f"{found}, which is {commit} today. Set revision: {commit}."


@contextmanager
def _explained(cfg: HubConfig) -> Iterator[None]:
    """Turn what the hub's library raises into one message with what to do."""
    repo, page = cfg.repo, f"{constants.ENDPOINT}/datasets/{cfg.repo}"
    try:
        yield
    except GatedRepoError:
        raise DataError(
            f"{repo}: expected access, found a gated dataset. Accept its terms at {page} and set HF_TOKEN to a token "
            f"of that account."
        ) from None
    except RepositoryNotFoundError:
        raise DataError(
            f"{repo}: expected a dataset on {constants.ENDPOINT}, found none that may be read. Correct "
            f"download.hub.repo, or set HF_TOKEN if it is private."
        ) from None
    except RevisionNotFoundError:
        raise DataError(f"{repo}: expected the commit {cfg.revision}, found no such revision. See {page}.") from None
    except CachedRepoTreeNotFoundError:
        raise DataError(_unreachable(cfg, "its list of files is not in the cache")) from None
    except LocalEntryNotFoundError as error:
        raise DataError(_failed(cfg, error.__cause__ or error)) from None
    except (HfHubHTTPError, httpx2.HTTPError) as error:
        raise DataError(_failed(cfg, error)) from None
    except OSError as error:
        if error.errno is not None:
            raise  # of this machine's disk
        raise DataError(_failed(cfg, error)) from None


def _failed(cfg: HubConfig, error: BaseException) -> str:
    """A message for an answer or a connection that went wrong."""
    response: Any = getattr(error, "response", None)
    status = response.status_code if response is not None else None
    if status in (401, 403):
        return f"{cfg.repo}: expected access, the hub refused it ({status}). Set HF_TOKEN to a token that may read it."
    if status == 429:
        return (
            f"{cfg.repo}: expected an answer, the hub limits how often it may be asked (429). Wait some minutes and "
            f"run again: it goes on where it stopped. With HF_TOKEN set the limits are wider."
        )
    first_line = str(error).strip().partition("\n")[0]
    return _unreachable(cfg, f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__)


def _unreachable(cfg: HubConfig, reason: str) -> str:
    if constants.HF_HUB_OFFLINE:
        return (
            f"{cfg.repo}: expected commit {cfg.revision} in {constants.HF_HUB_CACHE}, found it incomplete, and "
            f"HF_HUB_OFFLINE is set. Run the download stage once where there is a network, with the same HF_HOME."
        )
    return (
        f"{cfg.repo}: expected an answer of {constants.ENDPOINT}, found {reason}. Check the network and run again: it "
        f"goes on where it stopped."
    )
