import json
import logging
import os

import pytest
import torch

from vla.errors import CheckpointError
from vla.training import checkpoint

TENSORS = {"model": {"w": torch.arange(4.0)}, "optimizer": {"w/step": torch.tensor(3.0)}, "ema": {"w": torch.ones(4)}}


def save(folder, step, keep=2):
    tensors = {stem: {name: value + step for name, value in values.items()} for stem, values in TENSORS.items()}
    return checkpoint.save(folder, step=step, tensors=tensors, notes={"loss": 0.5}, retention=checkpoint.Retention(keep))


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    save(tmp_path, 5)
    found = checkpoint.load(checkpoint.path_of(tmp_path, checkpoint.newest_intact(tmp_path)))
    assert found.step == 5
    assert found.notes == {"loss": 0.5}
    for stem, values in TENSORS.items():
        for name, value in values.items():
            assert torch.equal(found.tensors[stem][name], value + 5)


def test_only_the_newest_are_kept(tmp_path):
    for step in (2, 10, 4, 7):
        save(tmp_path, step)
    assert checkpoint.steps(tmp_path) == [7, 10]


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.newest_intact(tmp_path / "absent") is None


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "ema.safetensors"])
def test_a_flipped_byte_is_found_and_the_one_before_is_used(tmp_path, caplog, file):
    save(tmp_path, 1)
    damaged = save(tmp_path, 2) / file
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest_intact(tmp_path) == 1
    assert str(damaged) in caplog.text
    assert (tmp_path / "00000002.damaged").is_dir()


def test_any_flipped_bit_of_the_metadata_is_found(tmp_path):
    path = save(tmp_path, 1) / checkpoint.METADATA
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


def test_what_an_interrupted_save_left_is_removed(tmp_path):
    save(tmp_path, 1)
    (tmp_path / ".00000002.abc").mkdir()
    assert checkpoint.newest_intact(tmp_path) == 1
    assert [item.name for item in tmp_path.iterdir()] == ["00000001"]


def test_a_missing_file_is_named(tmp_path):
    path = save(tmp_path, 1)
    (path / "ema.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"ema.safetensors: expected a file, found none"):
        checkpoint.load(path)


def test_a_save_that_is_interrupted_at_any_file_operation_leaves_the_last_good_one(tmp_path, monkeypatch):
    save(tmp_path, 1)
    real = {name: getattr(os, name) for name in ("fsync", "rename")}
    operations = 0

    class Interrupted(BaseException):
        pass

    def counting(name, limit):
        def call(*arguments, **options):
            nonlocal operations
            operations += 1
            if operations == limit:
                raise Interrupted
            return real[name](*arguments, **options)

        return call

    interruptions = 0
    for limit in range(1, 100):
        operations = 0
        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, counting(name, limit))
            try:
                save(tmp_path, 2)
            except Interrupted:
                interruptions += 1
                assert checkpoint.newest_intact(tmp_path) in (1, 2)
                continue
        break
    assert interruptions >= 5
    assert checkpoint.newest_intact(tmp_path) == 2
