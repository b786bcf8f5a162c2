"""The source `url`: folders that can be listed, http folders with checksums, archives."""

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from recordings import COLUMNS, DATA_FILE, write_recordings
from servers import BucketHandler, Site, serving

from vla.data import download, remote, transfer
from vla.data.manifest import Manifest
from vla.data.remote import RemoteFile, public, reader
from vla.data.sources import open_dataset
from vla.errors import ConfigError, DataError


def config(**url: Any) -> download.Config:
    values = {
        "data": {"name": "test", "format": "lerobot_v30", "columns": COLUMNS},
        "seed": 0,
        "download": {"source": "url", "url": url},
    }
    return download.Config.parse(values, where="test")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose `.vla` is empty; small pieces, of which a broken connection loses none; no waiting."""
    monkeypatch.setattr(remote, "PIECE", 100)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(transfer, "PAUSE", 0.0)
    return tmp_path


@pytest.fixture
def written(tmp_path: Path) -> dict[str, bytes]:
    """Path -> contents of a dataset."""
    write_recordings(tmp_path / "written")
    files = [path for path in (tmp_path / "written").rglob("*") if path.is_file()]
    return {path.relative_to(tmp_path / "written").as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def site(written: dict[str, bytes]) -> Iterator[Site]:
    """The dataset on a web server at /reach, with its list of checksums."""
    with serving() as site:
        site.files = {f"/reach/{name}": content for name, content in written.items()}
        lines = [f"{sha256(content)}  {name}" for name, content in written.items()]
        site.files["/reach/SHA256SUMS"] = "\n".join(lines).encode()
        yield site


def data_root(dataset: Path) -> Path:
    return Path(Manifest.read(dataset).root or "")


def test_an_http_folder_is_fetched_by_its_list_of_checksums(
    site: Site, tmp_path: Path, written: dict[str, bytes]
) -> None:
    site.files["/reach/SHA256SUMS"] += f"\n{sha256(b'no')}  ./videos/of/no/episode.mp4".encode()
    cfg = config(url=f"{site.url}/reach", checksums="SHA256SUMS")
    download.run(cfg, dataset=tmp_path / "dataset")
    assert [path.name for path in (tmp_path / "dataset").iterdir()] == ["manifest.json"]
    manifest = Manifest.read(tmp_path / "dataset")
    assert manifest.source == {"kind": "url", "url": f"{site.url}/reach", "checksums": "SHA256SUMS", "sha256": None}
    assert (tmp_path / ".vla/downloads") in data_root(tmp_path / "dataset").parents
    assert {entry.path: entry.sha256 for entry in manifest.files}[DATA_FILE] == sha256(written[DATA_FILE])
    assert "/reach/videos/of/no/episode.mp4" not in site.got()
    assert len(open_dataset(cfg.data, tmp_path / "dataset").episodes()) == 3


def test_a_second_download_reads_the_list_and_nothing_else(site: Site, tmp_path: Path) -> None:
    cfg = config(url=f"{site.url}/reach", checksums="SHA256SUMS")
    download.run(cfg, dataset=tmp_path / "dataset")
    before = Manifest.read(tmp_path / "dataset")
    site.asked.clear()
    download.run(cfg, dataset=tmp_path / "dataset")
    assert site.got() == ["/reach/SHA256SUMS"]
    assert Manifest.read(tmp_path / "dataset") == before


def test_the_list_of_checksums_can_lie_in_the_project(site: Site, tmp_path: Path) -> None:
    (tmp_path / "sums.txt").write_bytes(site.files.pop("/reach/SHA256SUMS"))
    cfg = config(url=f"{site.url}/reach/", checksums="./sums.txt")
    download.run(cfg, dataset=tmp_path / "dataset")
    assert len(open_dataset(cfg.data, tmp_path / "dataset").episodes()) == 3


def test_a_transfer_that_breaks_goes_on_where_it_broke(site: Site, tmp_path: Path, written: dict[str, bytes]) -> None:
    site.breaks[f"/reach/{DATA_FILE}"] = [1000, 500]
    download.run(config(url=f"{site.url}/reach", checksums="SHA256SUMS"), dataset=tmp_path / "dataset")
    asked = [part for _, path, part in site.asked if path == f"/reach/{DATA_FILE}"]
    assert asked == ["", "bytes=1000-", "bytes=1500-"]
    assert (data_root(tmp_path / "dataset") / DATA_FILE).read_bytes() == written[DATA_FILE]


def test_a_later_run_goes_on_where_an_earlier_one_was_stopped(site: Site, tmp_path: Path) -> None:
    cfg = config(url=f"{site.url}/reach", checksums="SHA256SUMS")
    site.breaks[f"/reach/{DATA_FILE}"] = [1000] + [0] * 9
    with pytest.raises(DataError, match=r"file-000\.parquet: expected a complete transfer.*it goes on at byte 1000"):
        download.run(cfg, dataset=tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()
    site.breaks.clear()
    site.asked.clear()
    download.run(cfg, dataset=tmp_path / "dataset")
    assert [part for _, path, part in site.asked if path == f"/reach/{DATA_FILE}"] == ["bytes=1000-"]


def test_a_server_without_byte_ranges_is_read_from_the_start_again(
    site: Site, tmp_path: Path, written: dict[str, bytes]
) -> None:
    site.ranges = False
    site.breaks[f"/reach/{DATA_FILE}"] = [1000]
    download.run(config(url=f"{site.url}/reach", checksums="SHA256SUMS"), dataset=tmp_path / "dataset")
    assert (data_root(tmp_path / "dataset") / DATA_FILE).read_bytes() == written[DATA_FILE]


def test_a_server_that_always_breaks_at_the_same_byte_is_given_up(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.breaks[f"/reach/{DATA_FILE}"] = [1000] * 99
    with pytest.raises(DataError, match="found the connection broken 5 times"):
        download.run(config(url=f"{site.url}/reach", checksums="SHA256SUMS"), dataset=tmp_path / "dataset")
    assert site.got().count(f"/reach/{DATA_FILE}") == transfer.ATTEMPTS


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses[f"/reach/{DATA_FILE}"] = [503, 429]
    download.run(config(url=f"{site.url}/reach", checksums="SHA256SUMS"), dataset=tmp_path / "dataset")
    assert site.got().count(f"/reach/{DATA_FILE}") == 3


@pytest.mark.parametrize(
    ("status", "message"), [(404, "found 404 .*Correct download.url"), (401, r"found 401 .*~/\.netrc")]
)
def test_a_refusal_is_final(site: Site, tmp_path: Path, status: int, message: str) -> None:
    site.statuses[f"/reach/{DATA_FILE}"] = [status] * 2
    with pytest.raises(DataError, match=message):
        download.run(config(url=f"{site.url}/reach", checksums="SHA256SUMS"), dataset=tmp_path / "dataset")
    assert site.got().count(f"/reach/{DATA_FILE}") == 1


def test_contents_that_are_not_the_listed_ones_are_refused_and_removed(site: Site, tmp_path: Path) -> None:
    site.files[f"/reach/{DATA_FILE}"] += b"more"
    with pytest.raises(DataError, match=r"file-000\.parquet: expected sha256 \w{64}, found \w{64}\. Run again"):
        download.run(config(url=f"{site.url}/reach", checksums="SHA256SUMS"), dataset=tmp_path / "dataset")
    assert not list((tmp_path / ".vla").rglob("*.part"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0123  data/x.parquet", r"line 1: expected `sha256  path`"),
        (f"{'0' * 64}  ../secret", r"expected a path below"),
        (f"{'0' * 64}  /etc/passwd", r"expected a path below"),
        ("# only a comment", r"expected lines `sha256  path`, found none"),
    ],
)
def test_a_list_that_is_none_or_leads_elsewhere_is_refused(site: Site, tmp_path: Path, line: str, message: str) -> None:
    site.files["/reach/SHA256SUMS"] = line.encode()
    with pytest.raises(DataError, match=message):
        download.run(config(url=f"{site.url}/reach", checksums="SHA256SUMS"), dataset=tmp_path / "dataset")


def test_an_http_folder_without_checksums_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected `checksums`.*http cannot list folders"):
        download.run(config(url=f"{site.url}/reach"), dataset=tmp_path / "dataset")


@pytest.fixture
def bucket(written: dict[str, bytes]) -> Iterator[str]:
    """The dataset in a file system that can list."""
    files = fsspec.filesystem("memory")
    for name, content in written.items():
        files.pipe_file(f"/reach/{name}", content)
    yield "memory://reach"
    files.rm("/reach", recursive=True)


def test_a_folder_that_can_be_listed_needs_no_checksums(bucket: str, tmp_path: Path) -> None:
    cfg = config(url=bucket)
    download.run(cfg, dataset=tmp_path / "dataset")
    assert all(entry.sha256 is None and entry.mtime_ns for entry in Manifest.read(tmp_path / "dataset").files)
    assert len(open_dataset(cfg.data, tmp_path / "dataset").episodes()) == 3


def test_of_a_listed_folder_only_what_changed_is_fetched_again(
    bucket: str, tmp_path: Path, written: dict[str, bytes]
) -> None:
    download.run(config(url=bucket), dataset=tmp_path / "dataset")
    root = data_root(tmp_path / "dataset")
    for path in root.rglob("*.*"):
        path.chmod(0o400)
    kept = {path: path.stat().st_ino for path in root.rglob("*.parquet")}
    fsspec.filesystem("memory").pipe_file("/reach/meta/info.json", written["meta/info.json"] + b"\n")
    download.run(config(url=bucket), dataset=tmp_path / "dataset")
    assert (root / "meta/info.json").read_bytes() == written["meta/info.json"] + b"\n"
    assert {path: path.stat().st_ino for path in root.rglob("*.parquet")} == kept


def test_the_time_of_a_remote_file_becomes_that_of_the_local_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/a.bin").write_bytes(b"abc")
    os.utime(tmp_path / "there/a.bin", (0, 1_700_000_000))
    source = reader(f"file://{tmp_path}/there", where="test")
    (file,) = source.listing()
    assert file == RemoteFile("a.bin", 3, 1_700_000_000.0)
    transfer.bring(source, file, tmp_path / "here/a.bin", tell=lambda count: None)
    assert (tmp_path / "here/a.bin").stat().st_mtime == 1_700_000_000


def test_an_empty_or_missing_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected files, found none"):
        download.run(config(url="memory://nothing"), dataset=tmp_path / "dataset")


@pytest.fixture
def store(written: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The dataset in an S3 store, in the bucket `lab`."""
    pytest.importorskip("s3fs")
    with serving(BucketHandler) as site:
        site.files = {f"/lab/reach/{name}": content for name, content in written.items()}
        monkeypatch.setenv("AWS_ENDPOINT_URL", site.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").clear_instance_cache()
        yield site


def test_a_dataset_in_s3_is_listed_and_fetched_with_the_credentials_of_the_environment(
    store: Site, tmp_path: Path
) -> None:
    store.files["/lab/reach/videos/of/no/episode.mp4"] = b"large"
    cfg = config(url="s3://lab/reach")
    download.run(cfg, dataset=tmp_path / "dataset")
    assert len(open_dataset(cfg.data, tmp_path / "dataset").episodes()) == 3
    assert f"/lab/reach/{DATA_FILE}" in store.got()
    assert "/lab/reach/videos/of/no/episode.mp4" not in store.got()
    assert (data_root(tmp_path / "dataset") / DATA_FILE).stat().st_mtime == 1_767_323_045
    assert "secret" not in (tmp_path / "dataset/manifest.json").read_text()


def packed(written: dict[str, bytes], kind: str) -> bytes:
    """The dataset in one folder of an archive, as most archives have it."""
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for name, content in written.items():
                archive.writestr(zipfile.ZipInfo(f"reach/{name}", (2024, 5, 6, 7, 8, 10)), content)
    else:
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            for name, content in written.items():
                member = tarfile.TarInfo(f"reach/{name}")
                member.size, member.mtime = len(content), 1_700_000_000
                archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_is_fetched_unpacked_and_read_in_place(
    site: Site, tmp_path: Path, written: dict[str, bytes], kind: str
) -> None:
    content = packed(written, kind)
    site.files[f"/reach.{kind}"] = content
    site.breaks[f"/reach.{kind}"] = [5000]
    cfg = config(url=f"{site.url}/reach.{kind}", sha256=sha256(content))
    download.run(cfg, dataset=tmp_path / "dataset")
    first = Manifest.read(tmp_path / "dataset")
    assert data_root(tmp_path / "dataset").name == "reach"
    assert len(open_dataset(cfg.data, tmp_path / "dataset").episodes()) == 3
    assert not list((tmp_path / ".vla").rglob(f"*.{kind}*"))
    site.asked.clear()
    download.run(cfg, dataset=tmp_path / "dataset")
    assert site.asked == []
    assert Manifest.read(tmp_path / "dataset") == first


def test_an_archive_without_a_digest_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"download\.url: expected `sha256` and no `checksums` for an arch"):
        download.run(config(url=f"{site.url}/reach.zip"), dataset=tmp_path / "dataset")


def test_a_digest_for_a_folder_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"download\.url\.sha256: expected null for what is no archive"):
        download.run(config(url=f"{site.url}/reach", sha256="0" * 64), dataset=tmp_path / "dataset")


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@data.example/reach",
        "https://me@data.example/reach",
        "s3://me:secret@bucket/reach",
        "simplecache::https://me:secret@data.example/reach",
        "zip://*.parquet::simplecache::s3://me:secret@bucket/reach.zip",
        "https://me:a::secret@data.example/reach",
        "https://me:a/secret@data.example/reach",
        "https://me:a?secret#1@data.example/reach",
        "simplecache::s3://me:secret/1@bucket/reach",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected no user and password.*~/\.netrc") as caught:
        download.run(config(url=url), dataset=tmp_path / "dataset")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "simplecache::"])
def test_a_query_in_a_url_is_refused_and_not_repeated(prefix: str, tmp_path: Path) -> None:
    url = f"{prefix}https://data.example/reach.zip?token=secret"
    with pytest.raises(ConfigError, match=r"expected no query, found \S*/reach.zip\?\.\.\. Param.*~/\.netrc") as caught:
        download.run(config(url=url, sha256="0" * 64), dataset=tmp_path / "dataset")
    assert "secret" not in str(caught.value)


def test_an_at_sign_in_a_path_is_no_password() -> None:
    reader("https://host.example:8080/a@2", where="download.url")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host.example:8/a/b.zip?token=secret#x", "https://host.example:8/a/b.zip"),
        ("simplecache::https://me:secret@host.example/a?token=secret", "simplecache::https://host.example/a"),
        ("https://me:a/secret@host.example/b", "https://host.example/b"),
        ("https://host.example:8080/a@2/b", "https://host.example:8080/a@2/b"),
        ("zip://a.parquet::https://host.example/a@2.zip", "zip://a.parquet::https://host.example/a@2.zip"),
        ("s3://bucket/a:1@2", "s3://bucket/a:1@2"),
        ("file:///data/reach", "file:///data/reach"),
        ("http://[fe80::1]:8/reach", "http://[fe80::1]:8/reach"),
    ],
)
def test_what_may_be_secret_in_a_url_is_not_kept(url: str, shown: str) -> None:
    assert public(url) == shown


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:1/blob?X-Amz-Signature=SECRET123",
        "http://127.0.0.1:1/blob?X-Amz-Signature=('a b',SECRET123)",  # is quoted again on its way
        "http://me:SECRET123@127.0.0.1:1/blob",
        "nosuch://me:a/SECRET123@host/blob",
        "nosuch://me:SECRET123@host/blob?X-Amz-Signature=SECRET123",
    ],
)
def test_what_may_be_secret_in_a_redirect_is_neither_logged_nor_shown(
    target: str, tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.redirects["/a.zip"] = target
    with pytest.raises(DataError, match="found the connection broken 5 times") as caught:
        download.run(config(url=f"{site.url}/a.zip", sha256="0" * 64), dataset=tmp_path / "dataset")
    assert "/blob" in str(caught.value)
    assert "/blob" in caplog.text
    assert "SECRET123" not in str(caught.value) + caplog.text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/data/reach", "For a folder use 'local'"),
        ("nosuch://bucket/reach", "expected a URL that fsspec knows"),
        ("gs://bucket/reach", r"pip install 'vlaflow\[gcs\]'"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused(url: str, message: str, tmp_path: Path) -> None:
    if url.startswith("gs"):
        try:
            import gcsfs  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("gcsfs is installed")
    with pytest.raises(ConfigError, match=message):
        download.run(config(url=url), dataset=tmp_path / "dataset")
