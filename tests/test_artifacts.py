"""Artifacts: complete when they exist, recognised by digests."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla import artifacts
from vla.errors import DataError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_file_appears_when_the_block_succeeds_and_not_before(tmp_path):
    path = tmp_path / "folder" / "result.json"
    with artifacts.new_file(path) as partial:
        partial.write_text("done")
        assert not path.exists()
    assert path.read_text() == "done"
    assert [item.name for item in path.parent.iterdir()] == ["result.json"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")

    def write() -> None:
        with artifacts.new_file(path) as partial:
            partial.write_text("half of the n")
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["result.json"]


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from vla import artifacts
path = Path(sys.argv[1])
if sys.argv[2] == "file":
    with artifacts.new_file(path) as partial:
        partial.write_text("half of the n")
        os.kill(os.getpid(), signal.SIGKILL)
else:
    with artifacts.new_directory(path) as partial:
        (partial / "a").write_text("half of the n")
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_process_killed_while_writing_leaves_the_old_artifact(tmp_path, kind):
    path = tmp_path / "result"
    old = path if kind == "file" else path / "a"
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")
    ended = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(path), kind], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert old.read_text() == "old"


def test_a_written_file_has_the_permissions_of_an_ordinary_one(tmp_path):
    mask = os.umask(0o027)
    try:
        artifacts.write_text(tmp_path / "file", "x")
        with artifacts.new_directory(tmp_path / "folder") as partial:
            (partial / "a").write_text("x")
    finally:
        os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_a_directory_replaces_the_old_one_as_a_whole(tmp_path):
    path = tmp_path / "policy"
    for name in ("first", "second"):
        with artifacts.new_directory(path) as partial:
            (partial / name).write_text(name)
    assert [item.name for item in path.iterdir()] == ["second"]
    assert [item.name for item in tmp_path.iterdir()] == ["policy"]


def test_an_interrupted_directory_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "policy"
    path.mkdir()
    (path / "weights").write_text("old")

    def write() -> None:
        with artifacts.new_directory(path) as partial:
            (partial / "weights").write_text("new")
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        write()
    assert (path / "weights").read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["policy"]


def test_a_directory_that_cannot_be_renamed_leaves_no_half_removed_one(tmp_path, monkeypatch):
    path = tmp_path / "policy"
    path.mkdir()
    (path / "weights").write_text("old")
    monkeypatch.setattr(artifacts.shutil, "rmtree", lambda *args, **options: interrupt())

    def write() -> None:
        with artifacts.new_directory(path) as partial:
            (partial / "weights").write_text("new")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert (path / "weights").read_text() == "new"


@settings(max_examples=30)
@given(JSON)
def test_json_reads_back_equal(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    artifacts.write_json(path, value)
    assert artifacts.read_json(path, made_by="a test") == value


def test_equal_values_are_written_as_equal_bytes(tmp_path):
    artifacts.write_json(tmp_path / "a", {"x": 1, "y": [2]})
    artifacts.write_json(tmp_path / "b", {"y": [2], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes().endswith(b"}\n")


def test_not_a_number_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        artifacts.write_json(tmp_path / "a", float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_json_file_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(DataError, match=r"norm_stats\.json: expected a file, found none\. Run 'dvc repro norm_stats'"):
        artifacts.read_json(tmp_path / "norm_stats.json", made_by="dvc repro norm_stats")


def test_a_damaged_json_file_is_named_with_the_command_that_makes_it(tmp_path):
    (tmp_path / "a.json").write_text('{"x": ')
    with pytest.raises(DataError, match=r"a\.json: expected JSON.*run 'dvc repro'"):
        artifacts.read_json(tmp_path / "a.json", made_by="dvc repro")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="expected JSON"):
        artifacts.read_json(tmp_path / "a.json", made_by="dvc repro")


def test_the_digest_of_a_value_ignores_the_order_of_keys_and_nothing_else():
    assert artifacts.digest_of_value({"a": 1, "b": 2}) == artifacts.digest_of_value({"b": 2, "a": 1})
    assert artifacts.digest_of_value([1, 2]) != artifacts.digest_of_value([2, 1])
    assert artifacts.digest_of_value("1") != artifacts.digest_of_value(1)


def test_the_digest_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "empty").touch()
    expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert artifacts.digest_of_file(tmp_path / "empty") == expected


def test_the_digest_of_files_covers_names_and_contents_but_no_bytecode(tmp_path):
    def digest() -> str:
        return artifacts.digest_of_files([tmp_path / "code", tmp_path / "code" / "a.py"], root=tmp_path)

    (tmp_path / "code" / "__pycache__").mkdir(parents=True)
    (tmp_path / "code" / "a.py").write_text("a = 1")
    first = digest()
    (tmp_path / "code" / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    assert digest() == first
    (tmp_path / "code" / "a.py").write_text("a = 2")
    changed = digest()
    assert changed != first
    (tmp_path / "code" / "b.py").write_text("")
    assert digest() != changed


def test_a_directory_that_cannot_be_emptied_yet_is_out_of_the_way_and_goes_with_the_leftovers(tmp_path, monkeypatch):
    folder = tmp_path / "00000001"
    folder.mkdir()
    with monkeypatch.context() as network:
        network.setattr(os, "rmdir", not_empty)
        artifacts.remove_directory(folder)
        assert [item.name for item in tmp_path.iterdir()] == [".00000001.removed"]
    artifacts.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def not_empty(path, **_place) -> None:
    """A network file system keeps a removed file that is open, under another name."""
    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
