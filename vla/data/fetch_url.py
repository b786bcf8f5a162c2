"""Source `url`: a dataset at a URL (section `download.url`).

It is one of: a folder on a file system that can list (s3, gs, file, ...); an http folder whose files a list of
checksums names; an archive. What is fetched stays in `.vla/downloads` of the main checkout, and the manifest points
there. A URL is taken as something that stays as it is: what is there already is compared with the listing, not read.
"""

import fcntl
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from vla import artifacts, workspace
from vla.config import Config
from vla.data import archives
from vla.data.fetch import FetchingFolder, Origin, check_space, described, in_parallel
from vla.data.fetch_local import LocalOrigin
from vla.data.manifest import FileEntry
from vla.data.remote import Reader, RemoteFile, public, reader
from vla.data.transfer import PART, Tell, bring, is_complete
from vla.errors import ConfigError, DataError
from vla.folder import Folder
from vla.paths import below

log = logging.getLogger(__name__)

FILES, LOCK = "files", ".lock"
"""What lies in the place of a download beside what is unfinished."""


class UrlConfig(Config):
    """Section `download.url`."""

    url: str
    """A folder or an archive: https, http, s3, gs, file and whatever else fsspec knows."""
    checksums: str | None = None
    """File of lines `sha256  path`, as sha256sum writes it: below the URL, or here when it begins with `/` or `./`."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Digest of the archive, for a URL that is one."""


def origin(cfg: UrlConfig, *, where: str) -> Origin:
    """Where the files come from; an archive is fetched and unpacked here."""
    source = reader(cfg.url, where=where)
    if archives.is_archive(urlsplit(cfg.url).path):
        return _unpacked(cfg, source, where)
    if cfg.sha256 is not None:
        raise ConfigError(
            f"{where}.sha256: expected null for what is no archive, found a digest. "
            f"Archives are named {', '.join(archives.SUFFIXES)}; a folder has a list of checksums."
        )
    hashes = _read_checksums(cfg, source) if cfg.checksums else {}
    listing = _listing(cfg, source, hashes)
    return UrlOrigin(source, listing, _place(cfg, hashes))


class UrlOrigin:
    """The files of a folder at a URL; implements `vla.data.fetch.Origin`."""

    def __init__(self, source: Reader, listing: Mapping[str, RemoteFile], place: Path) -> None:
        self._source, self._listing, self._place = source, listing, place
        self.folder: Folder = FetchingFolder(place / FILES, listing, self.fetch)

    def present(self, names: Collection[str]) -> set[str]:
        """Those that are listed."""
        return self._listing.keys() & set(names)

    def fetch(self, names: Collection[str]) -> None:
        """Transfer what is not there."""
        root = self.folder.root
        missing = [name for name in names if not is_complete(self._listing[name], root / name)]
        if missing:
            sizes = [self._listing[name].size for name in missing]
            known = sum(size for size in sizes if size is not None)
            check_space(root, known)
            total = None if None in sizes else known
            with _held(self._place):
                in_parallel(self._bring, missing, total=total)

    def entries(self, names: Collection[str]) -> list[FileEntry]:
        """By the listed hash where there is one."""
        return described(self.folder.root, names, {name: self._listing[name].sha256 for name in names})

    def _bring(self, name: str, tell: Tell) -> None:
        bring(self._source, self._listing[name], self.folder.root / name, tell=tell)


def _unpacked(cfg: UrlConfig, source: Reader, where: str) -> LocalOrigin:
    if cfg.sha256 is None or cfg.checksums is not None:
        raise ConfigError(
            f"{where}: expected `sha256` and no `checksums` for an archive, found "
            f"{'both' if cfg.sha256 else 'none' if cfg.checksums is None else 'checksums'}. "
            f"'sha256sum FILE' prints the digest; set {where}.sha256."
        )
    place = _place(cfg, {})
    files, archive = place / FILES, place / Path(urlsplit(cfg.url).path).name
    with _held(place):
        if not files.is_dir():
            file = RemoteFile("", sha256=cfg.sha256)
            in_parallel(lambda _, tell: bring(source, file, archive, tell=tell), [file.name], total=None)
            log.info("unpacking %s", archive)
            archives.unpack(archive, files)
            archive.unlink()
    return LocalOrigin(archives.content_root(files))


def _listing(cfg: UrlConfig, source: Reader, hashes: Mapping[str, str]) -> dict[str, RemoteFile]:
    """What is there: all that can be listed, or what the checksums name."""
    if hashes:
        return {name: RemoteFile(name, sha256=digest) for name, digest in hashes.items()}
    listed = {file.name: file for file in source.listing()}
    for name in listed:
        below(Path("files"), name, where=public(cfg.url))
    if not listed:
        raise DataError(f"{public(cfg.url)}: expected files, found none. Correct download.url.")
    return listed


def _read_checksums(cfg: UrlConfig, source: Reader) -> dict[str, str]:
    """Path -> digest."""
    name = cfg.checksums or ""
    if name.startswith(("/", "./")):
        path = workspace.main_checkout() / name
        if not path.is_file():
            raise DataError(f"{path}: expected a list of checksums, found none. Correct download.url.checksums.")
        content = path.read_bytes()
    else:
        content = b"".join(piece for _, piece in source.read(name, 0))
    found = dict(_parse(content.decode("utf-8", errors="replace"), where=name))
    if not found:
        raise DataError(f"{name}: expected lines `sha256  path`, found none. Write them with sha256sum.")
    return found


def _parse(text: str, *, where: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        digest, _, name = line.strip().partition(" ")
        if not digest or digest.startswith("#"):
            continue
        name = name.lstrip(" *").removeprefix("./")
        if len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef") or not name:
            raise DataError(f"{where}: line {number}: expected `sha256  path` as sha256sum writes it, found {line!r}.")
        below(Path("files"), name, where=where)
        yield name, digest.lower()


def _place(cfg: UrlConfig, hashes: Mapping[str, str]) -> Path:
    """Where the files of these settings stay; with other checksums they are other files."""
    key = artifacts.digest_of_value([cfg.plain(), dict(hashes)])
    return places() / key[:16]


def places() -> Path:
    """The folder with a place for each download."""
    return workspace.local_store() / "downloads"


def unfinished(place: Path) -> list[Path]:
    """What a download that was stopped left in its place: parts of files, archives, and what was being unpacked."""
    beside = [path for path in place.iterdir() if path.name not in (FILES, LOCK)]
    return sorted([*beside, *(place / FILES).rglob(f".*{PART}")])


@contextmanager
def _held(place: Path) -> Iterator[None]:
    """One process at a time fetches into a place; another one waits and finds the files there."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
