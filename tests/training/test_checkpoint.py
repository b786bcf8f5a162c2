"""A checkpoint comes back as it was, or not at all; how many there are is bounded."""

import json
import logging
import shutil

import pytest
from checkpoints import loaded, names, save

from vla.errors import CheckpointError
from vla.training import checkpoint
from vla.training.checkpoint import METADATA, Retention, path_of

FILES = ("model.safetensors", "optimizer.safetensors", "ema.safetensors", METADATA)


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    save(tmp_path, 5)
    assert loaded(tmp_path).step == 5
    assert loaded(tmp_path).notes == {"loss": 0.5}


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.newest_intact(tmp_path / "absent") is None


def test_what_an_interrupted_save_left_is_removed(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".00000002.abc").mkdir()
    (tmp_path / ".file").touch()
    assert checkpoint.newest_intact(tmp_path) == 1
    assert names(tmp_path) == ["00000001"]


@pytest.fixture
def damaged(tmp_path, caplog, monkeypatch):
    """Damages a file of the checkpoint of step 2, and checks that it is named before anything is loaded."""
    intact = {step: save(tmp_path / "intact", step) for step in (1, 2)}

    def check(name, content):
        folder = tmp_path / "checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "intact", folder)
        file = path_of(folder, 2) / name
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "load_file", lambda path: pytest.fail(f"{path} is loaded unseen"))
            with pytest.raises(CheckpointError, match=f"{file}: expected .*, found"):
                checkpoint.load(path_of(folder, 2))
            with caplog.at_level(logging.WARNING):
                assert checkpoint.newest_intact(folder) == 1
        assert f"{file}: expected" in caplog.text
        assert "Going back to the checkpoint before it." in caplog.text
        assert loaded(folder).step == 1
        assert names(folder) == ["00000001", "00000002.damaged"]

    check.intact = intact
    return check


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_anywhere_in_any_file_is_found(damaged, file):
    content = (damaged.intact[2] / file).read_bytes()
    # The last byte of the metadata is the end of its line.
    for place in {
        0,
        7,
        8,
        len(content) // 3,
        len(content) // 2,
        len(content) - 2,
        len(content) - 1 - (file == METADATA),
    }:
        flipped = bytearray(content)
        flipped[place] ^= 1
        damaged(file, bytes(flipped))


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_cut_missing_or_longer_is_found(damaged, file):
    content = (damaged.intact[2] / file).read_bytes()
    for other in (None, b"", content[: len(content) // 2], content[:-2], content + b"\0"):
        damaged(file, other)


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_another_checkpoint_is_found(damaged, file):
    damaged(file, (damaged.intact[1] / file).read_bytes())


def test_a_whole_checkpoint_under_the_number_of_another_is_found(tmp_path):
    save(tmp_path, 1).rename(path_of(tmp_path, 7))
    with pytest.raises(CheckpointError, match="expected the metadata of step 7"):
        checkpoint.load(path_of(tmp_path, 7))


def test_any_flipped_bit_of_the_metadata_is_found(tmp_path):
    path = save(tmp_path, 1) / METADATA
    content = path.read_bytes()
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            # A flip of white space changes nothing that is read.
            assert checkpoint.verify(path.parent)["step"] == 1
            assert json.loads(flipped) == json.loads(content)
        except CheckpointError:
            continue


def test_a_checkpoint_that_is_damaged_a_second_time_is_set_aside_again(tmp_path):
    save(tmp_path, 1)
    for _ in range(2):
        (save(tmp_path, 2) / "ema.safetensors").write_bytes(b"")
        assert checkpoint.newest_intact(tmp_path) == 1


def test_without_an_intact_one_all_are_set_aside_and_none_is_removed(tmp_path):
    for step in (1, 2):
        (save(tmp_path, step) / METADATA).write_bytes(b"{}")
    assert checkpoint.newest_intact(tmp_path) is None
    assert names(tmp_path) == ["00000001.damaged", "00000002.damaged"]


def test_only_the_newest_are_kept(tmp_path):
    for step in (2, 4, 7, 10):
        save(tmp_path, step, Retention(2))
    assert checkpoint.steps(tmp_path) == [7, 10]
    save(tmp_path, 12, Retention(1))
    assert checkpoint.steps(tmp_path) == [12]


def test_the_first_of_every_period_stays_for_good(tmp_path):
    for step in (3, 6, 9, 12, 15, 18, 21, 24):
        save(tmp_path, step, Retention(1, every=10))
    # Period 0 has no multiple of 10 in it; 12 and 21 are the first from 10 and from 20 on.
    assert checkpoint.steps(tmp_path) == [12, 21, 24]


def test_the_best_one_stays_until_another_is_better(tmp_path):
    for step, best in ((1, 1), (2, 1), (3, 1), (4, 4), (5, 4), (6, 4)):
        save(tmp_path, step, Retention(1, best=best))
        assert checkpoint.steps(tmp_path) == sorted({step, best})


def test_a_best_one_that_is_not_there_keeps_nothing_else(tmp_path):
    for step in (5, 6):
        save(tmp_path, step, Retention(1, best=3))
    assert checkpoint.steps(tmp_path) == [6]


def test_what_was_set_aside_goes_when_it_would_have_gone_intact(tmp_path):
    for step in (1, 2):
        path = save(tmp_path, step)
    (path / METADATA).unlink()
    assert checkpoint.newest_intact(tmp_path) == 1
    (tmp_path / "notes.damaged").touch()
    found = {}
    for step in (2, 3, 4):
        save(tmp_path, step)
        found[step] = names(tmp_path)
    assert found[3] == ["00000002", "00000002.damaged", "00000003", "notes.damaged"]
    assert found[4] == ["00000003", "00000004", "notes.damaged"]
