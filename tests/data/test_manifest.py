"""The manifest: what identifies a dataset, and what counts as changed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vla.data.manifest import FILE_NAME, Manifest
from vla.errors import DataError
from vla.folder import FileStamp


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


def test_where_hashed_files_lie_is_no_part_of_their_identity(folder: Path) -> None:
    hashed = replace(describe(folder, in_place=False), root="/cache/of/one/machine")
    assert hashed.digest == replace(hashed, root="/cache/of/another").digest


def test_where_files_known_by_time_lie_is_part_of_their_identity(folder: Path) -> None:
    timed = describe(folder, in_place=True)
    assert timed.digest != replace(timed, root="/elsewhere").digest


def test_files_in_place_are_not_hashed(folder: Path) -> None:
    entry = describe(folder, in_place=True).files[0]
    assert (entry.size, entry.sha256) == (3, None)


def test_the_digest_covers_the_further_sources(folder: Path) -> None:
    main = describe(folder, in_place=False)
    mixed = replace(main, mixture={"further": "0" * 64})
    assert mixed.digest != main.digest
    assert replace(main, mixture={"further": "1" * 64}).digest != mixed.digest


def test_what_was_left_out_is_no_part_of_the_identity(folder: Path) -> None:
    main = describe(folder, in_place=False)
    assert replace(main, left_out={"with missing files": 3}).digest == main.digest


def test_a_manifest_tells_a_reader_what_to_compare(folder: Path) -> None:
    hashed, timed = describe(folder, in_place=False), describe(folder, in_place=True)
    modified = (folder / "data" / "a.bin").stat().st_mtime_ns
    assert hashed.listed == {"data/a.bin": FileStamp(3, None)}
    assert timed.listed == {"data/a.bin": FileStamp(3, modified)}


def test_no_manifest_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Run 'dvc repro download'"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("values", [{"format": "x"}, {"format": "x", "source": {}, "root": None, "files": [{"a": 1}]}])
def test_a_file_that_is_no_manifest_is_an_error(tmp_path: Path, values: dict[str, object]) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps(values))
    with pytest.raises(DataError, match="expected a dataset manifest"):
        Manifest.read(tmp_path)


def test_the_code_that_reads_a_further_source_is_part_of_its_identity(folder: Path) -> None:
    manifest = describe(folder, in_place=False)
    codes = [replace(manifest, code=code).digest for code in (None, "a" * 64, "b" * 64)]
    assert len(set(codes)) == 3
