"""Whatever interrupts the writing of a checkpoint, a good one is there afterwards and nothing is left over."""

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import loaded, names, save
from interruptions import Trace, killed, traced

from vla import artifacts
from vla.training import checkpoint
from vla.training.checkpoint import METADATA, Retention, path_of


def copied(folder: Path, to: Path) -> Path:
    """A fresh copy in place of the one that the last try has changed."""
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(folder, to))


@pytest.mark.parametrize("newest", [1, 2])
def test_a_save_killed_at_any_file_operation_leaves_a_good_checkpoint_and_later_no_trace(tmp_path, newest):
    base, retention = tmp_path / "base", Retention(newest)
    for step in (1, 2):
        save(base, step, retention)
    for at in itertools.count(1):
        folder = copied(base, tmp_path / "checkpoints")
        interrupted = killed(lambda folder=folder: save(folder, 3, retention), at=at)
        later, present = copied(folder, tmp_path / "later"), checkpoint.steps(folder)
        assert set(checkpoint.steps(base)) - set(present) <= ({1} if newest == 2 else {2})
        assert all(checkpoint.verify(path_of(folder, step))["step"] == step for step in present)
        assert loaded(folder).step == max(present)
        assert names(folder) == [f"{step:08d}" for step in present]
        with traced(Trace()):
            save(later, 4, retention)
        assert names(later) == [f"{step:08d}" for step in [*present, 4][-newest:]]
        if not interrupted:
            break
    assert present == [2, 3][-newest:]
    assert at > 40


def test_a_search_killed_while_it_sets_a_damaged_checkpoint_aside_finds_the_one_before_later(tmp_path):
    base = tmp_path / "base"
    for step in (1, 2):
        damaged = save(base, step)
    shutil.copytree(damaged, base / "00000002.damaged")
    (base / ".00000003.abc").mkdir()
    (damaged / "ema.safetensors").write_bytes(b"")
    for at in itertools.count(1):
        folder = copied(base, tmp_path / "checkpoints")
        interrupted = killed(lambda folder=folder: checkpoint.newest_intact(folder), at=at)
        assert loaded(folder).step == 1
        assert names(folder) == ["00000001", "00000002.damaged"]
        if not interrupted:
            break
    assert at > 5


def test_power_may_fail_at_any_moment(tmp_path):
    """A file reaches the disk by its own sync and a name by that of its folder: each before what relies on it."""
    folder = tmp_path / "state" / "checkpoints"
    with traced(Trace()) as first:
        save(folder, 1, Retention(1))
    for place in (tmp_path, tmp_path / "state"):
        assert ("fsync", str(place)) in first.events, "the name of a new folder is lost"
    with traced(Trace()) as trace:
        save(folder, 2, Retention(1))
    [(appears, partial)] = [
        (number, Path(event[1]))
        for number, event in enumerate(trace.events)
        if event[0] == "rename" and event[2] == str(path_of(folder, 2))
    ]
    for name in ("model.safetensors", "optimizer.safetensors", "ema.safetensors", METADATA):
        [*_, written] = [
            number
            for number, event in enumerate(trace.events)
            if event[0] != "fsync" and str(partial / name) in event[1:] and event[0] != "open"
        ]
        assert ("fsync", str(partial / name)) in trace.events[written:appears], f"{name} may be empty"
        assert ("fsync", str(partial)) in trace.events[written:appears], f"the name {name} may be lost"
    removal = next(n for n, event in enumerate(trace.events) if str(path_of(folder, 1)) in event[1:])
    assert ("fsync", str(folder)) in trace.events[appears:removal], "the old one may go before the new one is there"
    assert trace.events[removal][0] == "rename"
    assert trace.events[removal + 1 : removal + 3][-1] == ("fsync", str(folder)), "it may come back half removed"


DIES_AT_BYTE = """
import os, resource, shutil, signal, sys
from pathlib import Path
from checkpoints import loaded, names, save
from vla.training import checkpoint

os.fsync = lambda descriptor: None  # the machine does not die, and it takes the time
folder = Path(sys.argv[1])
save(folder, 1)
for limit in range(0, 520, 20):
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        save(folder, 2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    left = [item.name for item in folder.glob(".*")]
    print(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXFSZ, bool(left), loaded(folder).step)
    assert not list(folder.glob(".*"))
    shutil.rmtree(checkpoint.path_of(folder, 2), ignore_errors=True)
"""


def test_a_process_that_dies_at_a_byte_of_a_file_leaves_the_last_good_checkpoint(tmp_path):
    """The kernel ends it where a file would pass a limit, also inside of safetensors."""
    command = [sys.executable, "-c", DIES_AT_BYTE, str(tmp_path)]
    environment = {"PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(artifacts.__file__).parents[1]}"}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    died = [line == "True True 1" for line in shown.splitlines()]
    survived = [line == "False False 2" for line in shown.splitlines()]
    number = sum(died)
    assert 10 < number < len(died)
    assert died == [True] * number + [False] * (len(died) - number)
    assert survived == [not value for value in died]
