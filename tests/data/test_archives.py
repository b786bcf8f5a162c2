"""Unpacking: nothing leaves the folder, and half an archive is none."""

import io
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla.data import archives
from vla.errors import DataError


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, 3 if kind == tarfile.REGTYPE else 0
    return made


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    packed = tmp_path / f"packed.{kind}"
    if kind == "tar":
        tar_of(packed, member("fine.txt"), member(name))
    else:
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(name, b"x")
    with pytest.raises(DataError, match="expected a path below"):
        archives.unpack(packed, tmp_path / "inner/files")
    assert not list(tmp_path.rglob("outside"))
    assert not (tmp_path / "inner/files").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_what_is_no_ordinary_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    packed = tar_of(tmp_path / "packed.tar", member("link", kind, link="/etc/passwd"))
    with pytest.raises(DataError, match="expected ordinary files, found 'link'"):
        archives.unpack(packed, tmp_path / "files")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="expected ordinary files, found 'link'"):
        archives.unpack(tmp_path / "packed.zip", tmp_path / "files")


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    packed = tmp_path / f"packed.{kind}"
    packed.write_bytes(b"\x1f\x8b nothing of the kind" * 9)
    with pytest.raises(DataError, match=r"packed\..*: expected a complete archive"):
        archives.unpack(packed, tmp_path / "files")
    assert [path.name for path in tmp_path.iterdir()] == [packed.name]


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as archive:
        archive.addfile(member("a"), io.BytesIO(b"abc"))
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "whole.tar.gz").read_bytes()[:40])
    with pytest.raises(DataError, match="expected a complete archive"):
        archives.unpack(tmp_path / "cut.tar.gz", tmp_path / "files")


def test_the_checksum_at_the_end_of_a_compressed_archive_is_compared(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        archive.addfile(member("a"), io.BytesIO(b"abc"))
    damaged = bytearray((tmp_path / "packed.tar.gz").read_bytes())
    damaged[-8] ^= 1  # the last eight bytes are the checksum and the length
    (tmp_path / "packed.tar.gz").write_bytes(damaged)
    with pytest.raises(DataError, match="expected a complete archive, found CRC check failed"):
        archives.unpack(tmp_path / "packed.tar.gz", tmp_path / "files")
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize("kind", ["tar.bz2", "tar.xz", "zip"])
@pytest.mark.parametrize("at", [0.3, 0.5, 0.7])
def test_damage_within_an_archive_is_explained(tmp_path: Path, kind: str, at: float) -> None:
    packed, content = tmp_path / f"packed.{kind}", np.random.default_rng(0).bytes(20_000)
    if kind == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("a", content)
    else:
        compression: Any = f"w:{kind.partition('.')[2]}"
        with tarfile.open(packed, compression) as archive:
            made = tarfile.TarInfo("a")
            made.size = len(content)
            archive.addfile(made, io.BytesIO(content))
    damaged = bytearray(packed.read_bytes())
    middle = int(at * len(damaged))
    damaged[middle : middle + 50] = b"x" * 50
    packed.write_bytes(damaged)
    with pytest.raises(DataError, match="expected a complete archive"):
        archives.unpack(packed, tmp_path / "files")
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize(
    ("at", "value", "found"),
    [(6, 1, "is encrypted, password required"), (8, 77, "compression method is not supported")],
)
def test_a_zip_that_cannot_be_read_is_refused(tmp_path: Path, at: int, value: int, found: str) -> None:
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", b"abc")
    content = bytearray(packed.read_bytes())
    content[at] = content[content.index(b"PK\1\2") + at + 2] = value  # flags, method: here and in the list of files
    packed.write_bytes(content)
    with pytest.raises(
        DataError, match=f"expected an archive without a password and of a common method, found .*{found}"
    ):
        archives.unpack(packed, tmp_path / "files")


@pytest.mark.parametrize("names", [("a/b", "a"), ("a", "a/b"), ("a", "a/b/c")])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path, names: tuple[str, str], kind: str) -> None:
    packed = tmp_path / f"packed.{kind}"
    if kind == "tar":
        tar_of(packed, *map(member, names))
    else:
        with zipfile.ZipFile(packed, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
    with pytest.raises(DataError, match=r"expected paths of files, found '\w' as a file and as a folder"):
        archives.unpack(packed, tmp_path / "files")
    assert not (tmp_path / "files").exists()


@pytest.fixture
def kiritimati(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A time zone far from UTC."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("kiritimati")
@pytest.mark.parametrize(
    ("date", "seconds"), [((2024, 5, 6, 7, 8, 10), 1_714_979_290), ((1980, 0, 0, 0, 0, 0), 315_532_800)]
)
def test_the_time_in_a_zip_means_the_same_in_every_time_zone(
    tmp_path: Path, date: tuple[int, int, int, int, int, int], seconds: int
) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("a", date), b"x")
    archives.unpack(tmp_path / "packed.zip", tmp_path / "files")
    assert (tmp_path / "files/a").stat().st_mtime == seconds


def test_an_error_of_the_disk_is_not_taken_for_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        archives.unpack(tmp_path / "nowhere.tar", tmp_path / "files")


def test_folders_around_all_contents_are_left_out(tmp_path: Path) -> None:
    packed = tar_of(tmp_path / "packed.tar", member("outer/inner/a"), member("outer/inner/b/c"))
    archives.unpack(packed, tmp_path / "files")
    assert archives.content_root(tmp_path / "files") == tmp_path / "files/outer/inner"
