"""Files below a URL: what is there, and reading one from any byte on.

http(s) is read with requests and everything else with fsspec, whose own http cannot tell whether a server honours byte
ranges and reports every failure as a missing file. Credentials come from the environment only: `~/.netrc` for http, and
what the file system's own library reads (AWS_*, GOOGLE_APPLICATION_CREDENTIALS, FSSPEC_*).
"""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import fsspec
import requests

from vla.errors import ConfigError, DataError

PIECE = 1 << 16
"""Bytes that are handed on at a time; a broken connection loses less than this."""
BLOCK = 1 << 23
"""Bytes that a file system is asked for at a time."""
TIMEOUT = (30.0, 60.0)
"""Seconds to connect, and between two pieces of an answer."""
AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Answers that may be others a little later."""
HTTP = ("http", "https")
CHAIN = re.compile(r"::(?=[a-z0-9+.-]+(?:::|://))", re.IGNORECASE)
"""Between the parts of a URL whose file systems fsspec puts on each other, such as simplecache::https://..."""
LOGIN = r"[^/?#\s:\[]*:(?!\d*(?:[/?#\s]|$))\S*@"
"""User and password, which may hold a `/` that should have been encoded. Digits alone are a port."""
PASSWORD = re.compile(rf"://{LOGIN}|https?://[^/?#]*@", re.IGNORECASE)
USER = re.compile(rf"//(?:{LOGIN}|[^/?#\s]*@)")
QUERY = re.compile(r"\?\S+")
"""What of an address may be secret; a quoted query may hold every character but blanks."""
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Scheme -> extra of this package that installs what reads it."""
OWN_ERRORS = {
    "s3": ("botocore.exceptions.BotoCoreError",),
    "gcs": ("gcsfs.retry.HttpError", "google.auth.exceptions.GoogleAuthError"),
}
"""Extra -> errors of its libraries that are no OSError."""


class Interrupted(Exception):  # noqa: N818  # an outcome, not an error
    """A connection broke or a server was busy; the same may work a little later."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a source; what it does not tell is None."""

    name: str
    """Below the source's URL."""
    size: int | None = None
    time: float | None = None
    """Seconds since 1970 of its last change."""
    sha256: str | None = None


class Reader(Protocol):
    """A place that files are read from. Errors are Interrupted where trying again may help, else DataError."""

    def listing(self) -> list[RemoteFile]:
        """All files below the URL; raises ConfigError where the protocol cannot list."""
        ...

    def read(self, name: str, start: int) -> Iterator[tuple[int, bytes]]:
        """Pieces of a file with their offsets: from `start` on, or from 0 where the server cannot do that."""
        ...


def reader(url: str, *, where: str) -> Reader:
    """What reads the URL; raises ConfigError when nothing does, or when the URL holds what may be secret."""
    if any(map(PASSWORD.search, CHAIN.split(url))):
        raise ConfigError(
            f"{where}.url: expected no user and password, found them in the URL. Put them into the environment or "
            f"~/.netrc: parameters are kept in git and in records."
        )
    if any(parts.scheme in HTTP and parts.query for parts in map(urlsplit, CHAIN.split(url))):
        raise ConfigError(
            f"{where}.url: expected no query, found {public(url)}?... Parameters are kept in git and in records, and a "
            f"query may hold a token: use ~/.netrc, or s3:// or gs:// with the store's own credentials."
        )
    scheme = urlsplit(url).scheme
    if not scheme:
        raise ConfigError(
            f"{where}.url: expected a URL such as https://..., found {public(url)!r}. For a folder use 'local'."
        )
    return HttpReader(url) if scheme in HTTP else FileSystemReader(url, where=where)


def public(url: str) -> str:
    """The URL without what may be secret: user, password, query."""
    chain = [urlsplit(USER.sub("//", part)) for part in CHAIN.split(url)]
    return "::".join(urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")) for parts in chain)


def _scrubbed(error: BaseException) -> str:
    """The message of a library, which may repeat addresses: ours, as it quotes it, and those of redirects."""
    return QUERY.sub("?...", USER.sub("//", str(error)))


class HttpReader:
    """Files below an http(s) address."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._session = requests.Session()

    def listing(self) -> list[RemoteFile]:
        """http has no listing."""
        raise ConfigError(
            f"{public(self._url.geturl())}: expected `checksums`, a file with lines `sha256  path` as sha256sum writes "
            f"them, or an archive: http cannot list folders. Add download.url.checksums."
        )

    def read(self, name: str, start: int) -> Iterator[tuple[int, bytes]]:
        """Pieces of a file with their offsets."""
        path = f"{self._url.path.rstrip('/')}/{quote(name)}" if name else self._url.path
        address = self._url._replace(path=path).geturl()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            with self._session.get(address, headers=headers, stream=True, timeout=TIMEOUT) as answer:
                if answer.status_code == requests.codes.requested_range_not_satisfiable:
                    return  # nothing lies behind `start`
                if answer.status_code in AGAIN:
                    raise Interrupted(f"{answer.status_code} {answer.reason}")
                if not answer.ok:
                    raise DataError(_refused(public(address), answer))
                offset = start if answer.status_code == requests.codes.partial_content else 0
                for piece in answer.iter_content(PIECE):
                    yield offset, piece
                    offset += len(piece)
        except requests.RequestException as error:
            raise Interrupted(f"{type(error).__name__}: {_scrubbed(error)}") from None


def _refused(address: str, answer: requests.Response) -> str:
    found = f"{address}: expected a file, found {answer.status_code} {answer.reason}."
    if answer.status_code in (401, 403):
        return f"{found} Put the user and password for this host into ~/.netrc."
    return f"{found} Correct download.url."


class FileSystemReader:
    """Files below a URL of any file system that fsspec knows."""

    def __init__(self, url: str, *, where: str) -> None:
        scheme = urlsplit(url).scheme
        try:
            self._files, self._base = fsspec.core.url_to_fs(url)
        except ImportError as error:
            extra = EXTRAS.get(scheme)
            advice = f"pip install 'vlaflow[{extra}]'" if extra else "install the package that it names"
            raise ConfigError(
                f"{where}.url: expected a package for {scheme}: URLs, found none ({_scrubbed(error)}). Run: {advice}."
            ) from None
        except ValueError as error:
            raise ConfigError(
                f"{where}.url: expected a URL that fsspec knows, found {public(url)!r} ({_scrubbed(error)})."
            ) from None
        self._base = self._base.rstrip("/")
        own = OWN_ERRORS.get(EXTRAS.get(scheme, ""), ())
        self._errors: tuple[type[Exception], ...] = (OSError, *(_imported(dotted) for dotted in own))

    def listing(self) -> list[RemoteFile]:
        """All files below the URL."""
        try:
            found: dict[str, dict[str, Any]] = self._files.find(self._base, detail=True)
        except self._errors as error:
            raise DataError(
                f"{self._base}: expected a folder that can be listed, found {type(error).__name__}: "
                f"{_scrubbed(error)}. Correct download.url, or the credentials in the environment."
            ) from None
        start = len(self._base) + 1
        return [RemoteFile(path[start:], info.get("size"), _changed(info)) for path, info in found.items()]

    def read(self, name: str, start: int) -> Iterator[tuple[int, bytes]]:
        """Pieces of a file with their offsets."""
        path = f"{self._base}/{name}" if name else self._base
        try:
            with self._files.open(path, "rb", block_size=BLOCK) as stream:
                offset: int = stream.seek(start)
                while piece := stream.read(PIECE):
                    yield offset, piece
                    offset += len(piece)
        except (FileNotFoundError, PermissionError) as error:
            raise DataError(
                f"{path}: expected a file that may be read, found {type(error).__name__}. Correct download.url, or the "
                f"credentials in the environment."
            ) from None
        except self._errors as error:
            raise Interrupted(f"{type(error).__name__}: {_scrubbed(error)}") from None


def _imported(dotted: str) -> type[Exception]:
    module, _, name = dotted.rpartition(".")
    error: type[Exception] = getattr(importlib.import_module(module), name)
    return error


def _changed(info: dict[str, Any]) -> float | None:
    """When a file changed last, as the file systems write it."""
    value = next((info[key] for key in ("LastModified", "mtime", "updated", "created") if info.get(key)), None)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime) else value
