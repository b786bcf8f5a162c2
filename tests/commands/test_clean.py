import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vla import cli
from vla.tracking.sender import FILE_NAME, Sent
from vla.training.state_directory import Identity, StateDirectory


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    """`.vla` of a project with a finished training of 100 bytes, an interrupted one of 10 and decoded frames."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    store = tmp_path / ".vla"
    finished, interrupted = make_state(store, seed=0), make_state(store, seed=1)
    finished.done.write_text("x" * 100)
    (interrupted.checkpoints / "00000007").mkdir(parents=True)
    (interrupted.checkpoints / "00000007/model.safetensors").write_text("x" * 10)
    (store / "frames").mkdir()
    (store / "frames/abc.u8").write_text("x" * 1000)
    return store


def make_state(store: Path, *, seed: int) -> StateDirectory:
    identity = Identity(params={"seed": seed}, inputs={}, code="c")
    return StateDirectory(store / "state" / identity.fingerprint).describe(identity)


def clean(capsys, *words: str) -> str:
    assert cli.main(["clean", *words]) == 0
    return capsys.readouterr().out


def test_finished_states_and_frames_are_removed_and_an_interrupted_training_is_kept(store, capsys):
    shown = clean(capsys)
    assert "finished training" in shown
    assert "kept  training interrupted at step 7" in shown
    assert "1,000 bytes  decoded frames" in shown
    assert [state.name for state in (store / "state").iterdir()] == [make_state(store, seed=1).path.name]
    assert not (store / "frames").exists()


def test_interrupted_trainings_are_removed_on_request(store, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    Sent("http://127.0.0.1:1", "toys", run_id="1").write(make_state(store, seed=1).path / FILE_NAME)
    shown = clean(capsys, "--interrupted")
    assert "bytes  training interrupted at step 7" in shown
    assert "http://127.0.0.1:1 does not answer" in shown
    assert list((store / "state").iterdir()) == []


def test_a_training_whose_removal_was_interrupted_is_removed(store, capsys):
    half = store / "state/.abc.removed"
    half.mkdir()
    (half / "metrics.jsonl").write_text("x" * 50)
    assert "50 bytes  half-removed training" in clean(capsys)
    assert not half.exists()


def test_a_dry_run_removes_nothing(store, capsys):
    before = sorted(store.rglob("*"))
    shown = clean(capsys, "--dry-run")
    assert "1,000 bytes  decoded frames" in shown
    assert "would be removed" in shown
    assert sorted(store.rglob("*")) == before


def test_a_training_in_progress_keeps_its_state_and_the_frames(store, capsys):
    running = make_state(store, seed=2)
    holder = (
        "import sys\nfrom pathlib import Path\nfrom vla.training.state_directory import StateDirectory\n"
        "with StateDirectory(Path(sys.argv[1])).hold('driver'):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", holder, str(running.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        clean(capsys)
        assert running.path in (store / "state").iterdir()
        assert (store / "frames/abc.u8").exists()
        process.stdin.close()
    clean(capsys)
    assert not (store / "frames").exists()


def test_workspaces_of_dead_experiments_are_removed_and_live_ones_kept(store, capsys, tmp_path):
    exps = tmp_path / ".dvc/tmp/exps"
    dead, live, new = exps / "standalone/tmpdead", exps / "standalone/tmplive", exps / "tmpnew"
    for folder in (dead, live, new):
        folder.mkdir(parents=True)
        (folder / "data").write_text("x")
    for folder in (dead, live):
        os.utime(folder, (1, 1))
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=live, stdin=subprocess.PIPE) as process:
        shown = clean(capsys)
        process.stdin.write(b"\n")
        process.stdin.close()
    assert "dead experiment" in shown
    assert not dead.exists()
    assert live.exists()
    assert new.exists()


def test_unfinished_downloads_are_removed_unless_one_is_under_way(store, capsys):
    for name in ("stopped", "running"):
        files = store / "downloads" / name / "files/data"
        files.mkdir(parents=True)
        (files / "whole.parquet").write_text("x" * 10)
        (files / ".next.parquet.0123abcd.part").write_text("x" * 3)
        (store / "downloads" / name / ".lock").touch()
    stopped, running = store / "downloads/stopped", store / "downloads/running"
    (stopped / "reach.zip").write_text("x" * 5)
    (stopped / ".files.abc/data").mkdir(parents=True)
    (stopped / ".files.abc/data/a").write_text("x" * 7)
    with (running / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shown = clean(capsys)
    freed = [(int(line.split()[0].replace(",", "")), line) for line in shown.splitlines() if " bytes  " in line]
    assert sorted(size for size, line in freed if "unfinished download" in line) == [3, 5, 7]
    assert freed[-1][0] == sum(size for size, _ in freed[:-1])
    kept = [path.relative_to(stopped).as_posix() for path in sorted(stopped.rglob("*")) if path.is_file()]
    assert kept == [".lock", "files/data/whole.parquet"]
    assert (running / "files/data/.next.parquet.0123abcd.part").exists()
    clean(capsys)
    assert not (running / "files/data/.next.parquet.0123abcd.part").exists()
