"""A dataset's folder: what it hands out, what it compares, what it lists."""

import os
from pathlib import Path

import pytest

from vla.errors import DataError
from vla.folder import FileStamp, Folder, matching


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("meta/info.json", "data/chunk-000/a.parquet", "data/chunk-001/b.parquet", ".cache/data/c.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"abc")
    os.utime(tmp_path / "meta/info.json", ns=(5, 7))
    return tmp_path


def test_without_a_manifest_every_file_is_handed_out(root: Path) -> None:
    assert Folder(root).path("meta/info.json") == root / "meta/info.json"


@pytest.mark.parametrize("listed", [FileStamp(3, 7), FileStamp(3, None)])
def test_an_unchanged_file_is_handed_out(root: Path, listed: FileStamp) -> None:
    assert Folder(root, {"meta/info.json": listed}).path(Path("meta/info.json")) == root / "meta/info.json"


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"meta/info.json": FileStamp(4, 7)}, "expected 4 bytes as at download, found 3"),
        ({"meta/info.json": FileStamp(3, 8)}, "expected the file as it was at download, found one written since"),
        ({}, "expected a file that the manifest lists, found a new one"),
    ],
)
def test_a_changed_or_new_file_is_refused_with_what_to_run(
    root: Path, listed: dict[str, FileStamp], message: str
) -> None:
    with pytest.raises(DataError, match=rf"info\.json: {message}\. Run 'dvc repro -f -s download'"):
        Folder(root, listed).path("meta/info.json")


def test_a_missing_file_is_refused_with_what_to_run(root: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: expected a file, found none\. .*Run 'dvc repro -f -s download'"):
        Folder(root, {"meta/nothing": FileStamp(3, 7)}).path("meta/nothing")


def test_a_missing_file_of_a_folder_without_a_manifest_is_refused_with_what_may_be_wrong(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"nothing: expected a file, found none\. .*correct the section download"
    ) as found:
        Folder(root).path("meta/nothing")
    assert "dvc repro" not in str(found.value)


def test_a_file_is_compared_once(root: Path) -> None:
    folder = Folder(root, {"meta/info.json": FileStamp(3, 7)})
    folder.path("meta/info.json")
    os.utime(root / "meta/info.json", ns=(5, 8))
    assert folder.path("meta/info.json") == root / "meta/info.json"


def test_files_that_are_not_asked_for_are_not_looked_at(root: Path) -> None:
    folder = Folder(root, {"meta/info.json": FileStamp(3, 7), "data/chunk-000/a.parquet": FileStamp(99, 99)})
    folder.path("meta/info.json")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "data/../../secret"])
def test_a_path_that_leads_out_of_the_folder_is_refused(root: Path, name: str) -> None:
    with pytest.raises(DataError, match="expected a path below"):
        Folder(root).path(name)


def test_several_files_are_handed_out_in_the_given_order(root: Path) -> None:
    names = ["meta/info.json", "data/chunk-000/a.parquet"]
    assert Folder(root).paths(names) == [root / name for name in names]


def test_files_are_listed_below_a_folder_without_hidden_ones(root: Path) -> None:
    folder = Folder(root)
    assert folder.names() == ["data/chunk-000/a.parquet", "data/chunk-001/b.parquet", "meta/info.json"]
    assert folder.names("data", ".parquet") == ["data/chunk-000/a.parquet", "data/chunk-001/b.parquet"]
    assert folder.names("data/chunk-00") == []
    assert folder.names("nowhere") == []


def test_linked_folders_are_listed_too(root: Path, tmp_path: Path) -> None:
    (root / "videos").symlink_to(root / "data/chunk-000")
    assert Folder(root).names("videos") == ["videos/a.parquet"]


def test_with_a_manifest_the_listed_files_are_all_there_are(root: Path) -> None:
    folder = Folder(root, {"data/chunk-001/b.parquet": FileStamp(3, 7), "data/gone.parquet": FileStamp(1, 1)})
    assert folder.names("data", ".parquet") == ["data/chunk-001/b.parquet", "data/gone.parquet"]
    assert folder.has("data/gone.parquet")
    assert not folder.has("meta/info.json")


def test_without_a_manifest_a_file_is_there_when_it_exists(root: Path) -> None:
    assert Folder(root).has("meta/info.json")
    assert not Folder(root).has(Path("meta"))


def test_names_below_a_folder_are_not_names_that_begin_like_it() -> None:
    assert matching(["data/a", "data-old/b", "data"], "data", "") == ["data/a"]
