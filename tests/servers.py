"""Stand-ins of outside services on this machine: a web server of files that breaks on request, and two that
speak as much of the Hugging Face Hub and of S3 as reading a dataset takes."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

LARGE = 200
"""Bytes from which on the hub keeps a file outside git, under its SHA-256."""


@dataclass
class Site:
    """What a server has, how it misbehaves, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Path, from the first slash on -> contents."""
    breaks: dict[str, list[int]] = field(default_factory=dict)
    """Path -> after how many bytes of the answer the connection breaks, once for each number."""
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Path -> answers to give instead, one for each request."""
    redirects: dict[str, str] = field(default_factory=dict)
    """Path -> where else it is."""
    ranges: bool = True
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and Range of every request."""
    url: str = ""

    def got(self, *, method: str = "GET") -> list[str]:
        """The paths asked for by a method, in order."""
        return [path for kind, path, _ in self.asked if kind == method]


class Handler(BaseHTTPRequestHandler):
    """Answers with the files of `site`."""

    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.site.asked.append((self.command, path, self.headers.get("Range", "")))
        statuses = self.site.statuses.get(path)
        if statuses:
            self.reply(statuses.pop(0), b"not now")
        elif path in self.site.redirects:
            self.reply(302, b"", Location=self.site.redirects[path])
        elif path in self.site.files:
            self.send(path, self.site.files[path])
        else:
            self.reply(404, b"not here")

    def send(self, path: str, content: bytes, **headers: str) -> None:
        """A file, or the part of it that is asked for."""
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start and self.site.ranges:
            first = int(start[1])
            if first >= len(content):
                self.reply(416, b"")
            else:
                span = f"bytes {first}-{len(content) - 1}/{len(content)}"
                self.reply(206, content[first:], path=path, **{"Content-Range": span, **headers})
        else:
            self.reply(200, content, path=path, **headers)

    def reply(self, status: int, body: bytes, *, path: str = "", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            stops = self.site.breaks.get(path)
            self.wfile.write(body[: stops[0]] if stops else body)
            if stops:
                stops.pop(0)
                self.close_connection = True


class HubHandler(Handler):
    """Answers as the hub does for datasets and models; the site's files are at the commit `COMMIT`.

    They are called `/owner/name/path`, those of models `/models/owner/name/path`.
    """

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.site.asked.append((self.command, path, self.headers.get("Range", "")))
        statuses = self.site.statuses.get(path)
        if statuses:
            self.fail(statuses.pop(0))
        elif found := re.match(r"/api/(?:datasets|(models))/(\w+/\w+)/(tree|revision)/(\w+)$", path):
            self.describe(folder_of(found[2], model=bool(found[1])), *found.groups()[2:])
        elif found := re.match(rf"(/datasets)?/(\w+/\w+)/resolve/{COMMIT}/(.+)$", path):
            self.resolve(f"/{folder_of(found[2], model=not found[1])}/{found[3]}")
        else:
            self.fail(404)

    def describe(self, repo: str, what: str, revision: str) -> None:
        """The commit behind a name, or the files of a commit."""
        names = [name for name in self.site.files if name.startswith(f"/{repo}/")]
        if not names:
            self.fail(404, "RepoNotFound")
        elif revision not in (COMMIT, TAG):
            self.fail(404, "RevisionNotFound")
        elif what == "revision":
            self.reply(200, json.dumps({"id": repo, "sha": COMMIT}).encode())
        else:
            self.reply(200, json.dumps([self.entry(name, repo) for name in names]).encode())

    def entry(self, name: str, repo: str) -> dict[str, object]:
        content = self.site.files[name]
        entry = {"type": "file", "path": name.removeprefix(f"/{repo}/"), "size": len(content), "oid": etag(content)}
        large = {"oid": etag(content), "size": len(content), "pointerSize": 130}
        return {**entry, "lfs": large} if len(content) >= LARGE else entry

    def resolve(self, name: str) -> None:
        if name not in self.site.files:
            self.fail(404, "EntryNotFound")
        else:
            content = self.site.files[name]
            self.send(name, content, **{"X-Repo-Commit": COMMIT, "ETag": f'"{etag(content)}"'})

    def fail(self, status: int, code: str = "") -> None:
        self.reply(status, b"", **({"X-Error-Code": code} if code else {}))


class BucketHandler(Handler):
    """Answers as S3 does for listing and reading; the site's files are `/bucket/key`."""

    def answer(self) -> None:
        parts = urlsplit(self.path)
        if "list-type=2" in parts.query:
            bucket = unquote(parts.path).rstrip("/")
            prefix = f"{bucket}/{parse_qs(parts.query).get('prefix', [''])[0]}"
            self.site.asked.append((self.command, prefix, "list"))
            found = [name for name in self.site.files if name.startswith(prefix)]
            self.reply(200, self.listing(bucket, found).encode(), **{"Content-Type": "application/xml"})
        else:
            super().answer()

    def listing(self, bucket: str, names: list[str]) -> str:
        entries = "".join(
            f"<Contents><Key>{name.removeprefix(f'{bucket}/')}</Key><Size>{len(self.site.files[name])}</Size>"
            f"<LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>x</ETag></Contents>"
            for name in names
        )
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>false</IsTruncated><KeyCount>{len(names)}</KeyCount>{entries}</ListBucketResult>"
        )


COMMIT = "0123456789abcdef0123456789abcdef01234567"
TAG = "v3"


def folder_of(repo: str, *, model: bool) -> str:
    """Where the site has the files of a repository."""
    return f"models/{repo}" if model else repo


def ask_instead_of_the_hub(site: Site, monkeypatch: pytest.MonkeyPatch, *, cache: Path) -> None:
    """Let the hub's library ask the site, and keep what it gets in `cache`.

    It reads its environment when it is imported, which other tests may have done before.
    """
    template = site.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", site.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def etag(content: bytes) -> str:
    """What the hub calls a file: its SHA-256 when it is large, else git's hash."""
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def serving(handler: type[Handler] = Handler) -> Iterator[Site]:
    """A server for as long as the block runs."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (handler,), {"site": site}))
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
