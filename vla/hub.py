"""Repositories of the Hugging Face Hub at one commit: their files, through the hub's own cache.

Complete files are never asked for again, a connection that breaks is continued, and with HF_HUB_OFFLINE=1 the cache is
all there is. The token comes from the environment (HF_TOKEN) or from `hf auth login`. What the hub's library raises
becomes one message with what to do.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2
from huggingface_hub import (
    HfApi,
    constants,
    get_cached_repo_tree,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vla.errors import ConfigError, DataError

NAME = r"^[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*$"
"""What a repository is called: `owner/name`."""
COMMIT = re.compile(r"[0-9a-f]{40}")
LISTED = ".gitattributes"
"""A small file that repositories have: asking for it makes the hub's library keep the list of all files."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit, and how messages speak of it. All errors are DataError or ConfigError."""

    name: str
    """`owner/name`."""
    revision: str
    kind: Literal["dataset", "model"]
    setting: str
    """The parameter that holds the name, such as `download.hub.repo`; `revision` stands beside it."""

    @property
    def page(self) -> str:
        """Address for people."""
        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def check_pinned(self) -> None:
        """Raise ConfigError unless the revision is a commit: a branch or a tag may point to other files tomorrow."""
        if not COMMIT.fullmatch(self.revision):
            raise ConfigError(self._unpinned())

    def listed(self) -> tuple[Path, dict[str, int]]:
        """Folder of the commit in the cache, and the size in bytes of each file that the commit has."""
        with self._explained():
            root = Path(snapshot_download(self.name, **self._at, allow_patterns=LISTED))
            return root, {file.path: file.size for file in get_cached_repo_tree(self.name, **self._at)}

    def fetch(self, file: str) -> Path:
        """Path of a file in the cache, which is downloaded unless it is there."""
        with self._explained():
            return Path(hf_hub_download(self.name, file, **self._at))

    def cached_names(self) -> list[str] | None:
        """The files that the commit has, as the cache knows them; None where it does not. Asks nobody."""
        try:
            return [file.path for file in get_cached_repo_tree(self.name, **self._at)]
        except CachedRepoTreeNotFoundError:
            return None

    def cached(self, file: str) -> Path | None:
        """Path of a file in the cache; None where it lacks the file. Asks nobody."""
        found = try_to_load_from_cache(self.name, file, **self._at)
        return Path(found) if isinstance(found, str) else None

    @property
    def _at(self) -> dict[str, Any]:
        return {"repo_type": self.kind, "revision": self.revision}

    def _unpinned(self) -> str:
        """What to say about a branch or a tag, with its commit where the hub can be asked."""
        where = f"{self.setting.rpartition('.')[0]}.revision"
        found = f"{where}: expected a commit hash of 40 hexadecimal digits, found {self.revision!r}"
        if constants.HF_HUB_OFFLINE:
            return f"{found}. 'git ls-remote {self.page} {self.revision}' prints the hash; set it."
        with self._explained():
            commit = HfApi().repo_info(self.name, **self._at).sha
        return f"{found}, which is {commit} today. Set revision: {commit}."

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the hub's library raises into one message with what to do."""
        try:
            yield
        except GatedRepoError:
            raise DataError(
                f"{self.name}: expected access, found a gated {self.kind}. Accept its terms at {self.page} and set "
                f"HF_TOKEN to a token of that account."
            ) from None
        except RepositoryNotFoundError:
            raise DataError(
                f"{self.name}: expected a {self.kind} on {constants.ENDPOINT}, found none that may be read. Correct "
                f"{self.setting}, or set HF_TOKEN if it is private."
            ) from None
        except RevisionNotFoundError:
            raise DataError(
                f"{self.name}: expected the commit {self.revision}, found no such revision. See {self.page}."
            ) from None
        except CachedRepoTreeNotFoundError:
            raise DataError(self._unreachable("its list of files is not in the cache")) from None
        except LocalEntryNotFoundError as error:
            raise DataError(self._failed(error.__cause__ or error)) from None
        except (HfHubHTTPError, httpx2.HTTPError, RuntimeError) as error:
            # hf_xet, which transfers large files, raises RuntimeError for all that goes wrong.
            raise DataError(self._failed(error)) from None
        except OSError as error:
            if error.errno is not None:
                raise  # of this machine's disk
            raise DataError(self._failed(error)) from None

    def _failed(self, error: BaseException) -> str:
        """A message for an answer or a connection that went wrong."""
        response: Any = getattr(error, "response", None)
        status = response.status_code if response is not None else None
        if status in (401, 403):
            return (
                f"{self.name}: expected access, the hub refused it ({status}). Set HF_TOKEN to a token that may read "
                f"it."
            )
        if status == 429:
            return (
                f"{self.name}: expected an answer, the hub limits how often it may be asked (429). Wait some minutes "
                f"and run again: it goes on where it stopped. With HF_TOKEN set the limits are wider."
            )
        first_line = str(error).strip().partition("\n")[0]
        return self._unreachable(f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__)

    def _unreachable(self, reason: str) -> str:
        if constants.HF_HUB_OFFLINE:
            return (
                f"{self.name}: expected commit {self.revision} in {constants.HF_HUB_CACHE}, found it incomplete, and "
                f"HF_HUB_OFFLINE is set. Run this once where there is a network, with the same HF_HOME."
            )
        return (
            f"{self.name}: expected an answer of {constants.ENDPOINT}, found {reason}. Check the network and run "
            f"again: it goes on where it stopped."
        )
