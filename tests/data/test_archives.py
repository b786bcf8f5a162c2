"""Unpacking: nothing leaves the folder, and half an archive is none."""

import io
import tarfile
import zipfile
from pathlib import Path

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


def test_folders_around_all_contents_are_left_out(tmp_path: Path) -> None:
    packed = tar_of(tmp_path / "packed.tar", member("outer/inner/a"), member("outer/inner/b/c"))
    archives.unpack(packed, tmp_path / "files")
    assert archives.content_root(tmp_path / "files") == tmp_path / "files/outer/inner"
