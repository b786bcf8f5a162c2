"""The manifest: what identifies a dataset, and what counts as changed."""

import json
from pathlib import Path

import pytest

from vla.data.manifest import FILE_NAME, Manifest
from vla.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.bin").write_bytes(b"abc")
    return tmp_path


def describe(folder: Path, *, in_place: bool) -> Manifest:
    files = [folder / "data" / "a.bin"]
    return Manifest.describe(files, root=folder, format_name="x", source={"kind": "test"}, in_place=in_place)


def test_what_is_written_is_read_back(folder: Path) -> None:
    manifest = describe(folder, in_place=False)
    manifest.write(folder)
    assert Manifest.read(folder) == manifest
    assert manifest.files[0].path == "data/a.bin"
    assert manifest.files[0].size == 3


def test_the_digest_follows_the_contents_and_not_the_clock(folder: Path) -> None:
    before = describe(folder, in_place=False).digest
    (folder / "data" / "a.bin").write_bytes(b"abc")
    assert describe(folder, in_place=False).digest == before
    (folder / "data" / "a.bin").write_bytes(b"abd")
    assert describe(folder, in_place=False).digest != before


def test_a_file_of_another_size_is_a_change(folder: Path) -> None:
    manifest = describe(folder, in_place=False)
    manifest.verify(folder)
    (folder / "data" / "a.bin").write_bytes(b"abcd")
    with pytest.raises(DataError, match="expected 3 bytes as listed at download, found 4"):
        manifest.verify(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    manifest = describe(folder, in_place=True)
    (folder / "data" / "a.bin").unlink()
    with pytest.raises(DataError, match=r"a\.bin: expected a data file, found none"):
        manifest.verify(folder)


def test_no_manifest_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Run 'dvc repro download'"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("values", [{"format": "x"}, {"format": "x", "source": {}, "root": None, "files": [{"a": 1}]}])
def test_a_file_that_is_no_manifest_is_an_error(tmp_path: Path, values: dict[str, object]) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps(values))
    with pytest.raises(DataError, match="expected a dataset manifest"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "data/../../secret"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(folder: Path, path: str) -> None:
    describe(folder, in_place=False).write(folder)
    values = json.loads((folder / FILE_NAME).read_text())
    values["files"][0]["path"] = path
    (folder / FILE_NAME).write_text(json.dumps(values))
    with pytest.raises(DataError, match="expected a path below"):
        Manifest.read(folder).verify(folder)
