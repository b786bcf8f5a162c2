"""`info.json`: what is wrong with it is named, and where it says that files lie."""

from pathlib import Path

import pytest

from tests.formats.files import change_info
from tests.formats.miniature_lerobot import COLUMNS, write_lerobot_v30
from vla.errors import DataError
from vla.folder import Folder
from vla.formats.lerobot_v30 import LeRobotV30, open_dataset
from vla.lerobot import Info


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_lerobot_v30(tmp_path)
    return tmp_path


def opened(root: Path) -> LeRobotV30:
    return open_dataset(Folder(root), COLUMNS, name="test")


def test_a_dataset_of_another_version_is_an_error(root: Path) -> None:
    change_info(root, codebase_version="v2.1")
    with pytest.raises(DataError, match=r"expected codebase_version v3\.x, found v2\.1"):
        opened(root)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{", "expected JSON, found Expecting"), (b"\xff", "expected JSON"), (b"[1]", "a mapping, found")],
)
def test_a_damaged_description_is_an_error(root: Path, content: bytes, said: str) -> None:
    (root / "meta/info.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"info\.json: .*{said}.*Repair the file or get the dataset again"):
        opened(root)


@pytest.mark.parametrize("missing", ["fps", "features", "data_path"])
def test_an_incomplete_description_is_an_error(root: Path, missing: str) -> None:
    change_info(root, **{missing: ...})
    with pytest.raises(DataError, match=rf"info\.json: expected fps, features, data_path, found no {missing}\."):
        opened(root)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("fps", "20", r"fps: expected a positive number, found '20'\."),
        ("features", [], r"features: expected a mapping of columns, found \[\]\."),
        ("features", {}, r"features: expected a mapping of columns, found {}\."),
        ("features", {"action": {"shape": [1]}}, r"features: action: expected a mapping with a dtype, found {'shape'"),
        ("features", {"action": {"dtype": None}}, r"features: action: expected .* a dtype, found {'dtype': None}\."),
        ("data_path", 3, r"data_path: expected a path as text, found 3\."),
        ("data_path", "", r"data_path: expected a path as text, found ''\."),
    ],
)
def test_a_wrong_value_of_the_description_is_named(root: Path, key: str, value: object, said: str) -> None:
    change_info(root, **{key: value})
    with pytest.raises(DataError, match=rf"info\.json: {said}"):
        opened(root)


@pytest.mark.parametrize("path", ["../{file_index}.parquet", "/etc/{file_index}", "a/../../{file_index}", "a\\b"])
def test_paths_that_leave_the_dataset_are_refused(root: Path, path: str) -> None:
    change_info(root, data_path=path)
    with pytest.raises(DataError, match="expected a path below"):
        opened(root).steps(0)


def test_a_path_with_unknown_fields_is_an_error(root: Path) -> None:
    change_info(root, data_path="data/{episode_chunk}.parquet")
    with pytest.raises(DataError, match="expected a path with the fields chunk_index, file_index"):
        opened(root).steps(0)


@pytest.mark.parametrize(
    "field",
    [
        "{file_index:05000000d}",
        "{file_index:021d}",
        "{file_index:3d}",
        "{file_index!r}",
        "{file_index.real}",
        "{chunk_index:{file_index}}",
        "{0}",
        "{",
        "{{file_index}}",
    ],
)
def test_a_path_whose_fields_are_more_than_padded_numbers_is_an_error(root: Path, field: str) -> None:
    change_info(root, data_path=f"data/{field}.parquet")
    with pytest.raises(DataError, match=r"numbers padded to at most 20 digits as in \{name:03d\}, found 'data/"):
        opened(root).steps(0)


def test_a_path_may_have_plain_and_padded_fields(root: Path) -> None:
    change_info(root, data_path="data/{file_index}-{chunk_index:020d}.parquet")
    assert opened(root).episode_files(0) == [Path(f"data/0-{0:020d}.parquet")]
    change_info(root, data_path="data/{video_key:03d}.parquet")
    info = Info.read(Folder(root), version="v3.")
    with pytest.raises(DataError, match="expected a path with the fields video_key"):
        info.file(info.data_path, video_key="front")
