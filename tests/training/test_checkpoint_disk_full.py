"""A place that takes no more: the last good checkpoint stays, one message says what is needed, and it goes on later."""

import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import TENSORS, loaded, names, save
from interruptions import files_limited
from projects import train_flags, write_params

from vla import cli
from vla.errors import CheckpointError, Preempted
from vla.training import checkpoint

NEEDED = sum(value.nbytes for values in TENSORS.values() for value in values.values())


@pytest.mark.parametrize("size", [0, 50, 150, 400])
def test_a_save_without_room_leaves_the_last_good_checkpoint_and_nothing_half_done(tmp_path, size):
    with files_limited(size), pytest.raises(CheckpointError, match="from the start, as there is no checkpoint yet"):
        save(tmp_path, 1)
    save(tmp_path, 1)
    with (
        files_limited(size),
        pytest.raises(
            CheckpointError,
            match=rf"^{tmp_path}: expected room for {NEEDED} bytes, the checkpoint of step 2, found 'File too large' "
            rf"with [\d,]+ bytes free\. Raise the limit .* from the checkpoint of step 1\.$",
        ),
    ):
        save(tmp_path, 2)
    assert names(tmp_path) == ["00000001"]
    assert loaded(tmp_path).step == 1
    save(tmp_path, 2)
    assert loaded(tmp_path).step == 2


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small file system takes a right that this user has not")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_named_with_the_bytes_needed_and_free(small_disk):
    folder, filler = small_disk / "checkpoints", small_disk / "filler"
    save(folder, 1)
    with filler.open("wb") as stream:
        stream.write(b"x" * (os.statvfs(small_disk).f_bavail - 1) * 4096)
    with pytest.raises(
        CheckpointError, match=rf"{NEEDED} bytes.*step 2, found 'No space left on device' with 4,096 bytes free\. Free"
    ):
        save(folder, 2)
    assert names(folder) == ["00000001"]
    assert loaded(folder).step == 1
    filler.unlink()
    save(folder, 2)
    assert loaded(folder).step == 2


def stop_once_it_trains(state_root: Path) -> None:
    """SIGTERM to this process when the training has a journal."""
    deadline = time.monotonic() + 60
    while not list(state_root.glob("*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_training_stopped_by_a_full_disk_goes_on_by_the_same_command_when_there_is_room(
    project, monkeypatch, capsys, caplog
):
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    rarely = {f"execution.{name}_every": 1000 for name in ("checkpoint", "validate", "log")}
    write_params(project, {"train.steps": 40, **rarely})
    state_root, command = project / ".vla" / "state", ["train", *train_flags(project)]
    stopper = threading.Thread(target=stop_once_it_trains, args=(state_root,))
    stopper.start()
    assert cli.main(command) == Preempted.exit_code
    stopper.join()
    [checkpoints] = state_root.glob("*/checkpoints")
    [step] = checkpoint.steps(checkpoints)
    assert 0 < step < 40
    capsys.readouterr()

    with files_limited(100_000):
        assert cli.main(command) == 2
    [message] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vla train: ")]
    needed = re.search(r"expected room for ([\d,]+) bytes, the checkpoint of step 40, found 'File too large'", message)
    written = sum(file.stat().st_size for file in checkpoint.path_of(checkpoints, step).glob("*.safetensors"))
    assert 0.8 * written < int(needed[1].replace(",", "")) < written  # beside it, files say what is in them
    assert f"it goes on from the checkpoint of step {step}." in message
    assert names(checkpoints) == [f"{step:08d}"]

    with caplog.at_level(logging.INFO):
        assert cli.main(command) == 0
    assert f"resuming at step {step} of 40" in caplog.text
    assert (project / "out" / "policy" / "model.safetensors").is_file()
