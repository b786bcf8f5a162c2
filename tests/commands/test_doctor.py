import os
import socket
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from projects import a_project, params, train_flags

from vla import cli
from vla.commands import doctor_machine as machine
from vla.commands import doctor_training as training
from vla.training.job import JobConfig

QUICK = ["doctor", "--no-all-reduce", "--no-loader"]


@pytest.fixture
def settings(tmp_path):
    """The repository's parameters at toy size, with changes."""

    def make(**changes):
        (tmp_path / "params.yaml").write_text(
            yaml.safe_dump(params({key.replace("__", "."): value for key, value in changes.items()}))
        )
        return JobConfig.load(tmp_path / "params.yaml")

    return make


def test_the_doctor_says_what_it_found_on_one_screen(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(cli.sys.executable).parent}:{os.environ['PATH']}")
    for name in ("MLFLOW_TRACKING_URI", "MASTER_PORT", "NCCL_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 40
    assert (
        len(
            {
                line.index(found)
                for line, found in zip(lines, [line.split(None, 2)[2] for line in lines[:5]], strict=False)
            }
        )
        == 1
    )
    shown = "\n".join(lines)
    assert "all-reduce gloo  2 processes agree" in shown
    assert "NCCL_DEBUG=WARN" in shown
    assert all(name in shown for name in ["python", "torch", "ray", "mlflow", "prefect", "disk: state", "git"])


def test_a_tracking_server_that_does_not_answer_is_bad(capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert cli.main(QUICK) == 2
    said = next(line for line in capsys.readouterr().err.splitlines() if "tracking " in line)
    assert said.startswith("BAD  tracking")
    assert "http://127.0.0.1:9: expected the tracking store to answer" in said


def test_wrong_parameters_are_bad(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("seed: -1\n")
    assert cli.main(QUICK) == 2
    assert "BAD  workers" in capsys.readouterr().err


def test_workers_are_compared_with_the_machine(settings):
    def said(**changes):
        return next(training.settings(settings(**changes)))

    assert said(execution__workers=2, execution__launcher="torchrun") == machine.good("workers", said_of(2))
    many = said(execution__workers=16, execution__launcher="torchrun", execution__device="cuda", train__batch_size=16)
    assert not many.good
    assert "expected a GPU for each of 16 workers" in many.found
    assert "expected a multiple of the number of workers (3), found 8" in said(execution__workers=3).found
    assert said(execution__workers=2) == machine.bad(
        "workers", "2 by launcher local, which starts 1. Choose ray or torchrun"
    )


def said_of(workers):
    cores = os.cpu_count()
    return f"{workers} by torchrun on cpu" + (f"; {workers} threads for {cores} cores" if workers > cores else "")


def test_a_package_outside_of_the_project_s_bounds_is_named():
    inside, outside = Requirement("torch>=2"), Requirement("fastapi<0.1")
    assert machine.bounds([inside]) == machine.good("packages", "1 within the project's bounds")
    found = machine.bounds([inside, outside, Requirement("no-such-package")])
    assert not found.good
    assert "(needs <0.1), no-such-package is missing (needs any version)" in found.found
    assert "torch" not in found.found


def test_room_for_checkpoints_is_estimated_by_the_last_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle = tmp_path / "policy"
    bundle.mkdir()
    with (bundle / "model.safetensors").open("wb") as stream:
        stream.truncate(10**9)
    state, *_ = machine.disks(bundle, kept=2)
    assert state.found.endswith("3 checkpoints take 12.0 GB") or "12.0 GB are needed" in state.found
    with (bundle / "model.safetensors").open("wb") as stream:
        stream.truncate(10**13)
    state, *_ = machine.disks(bundle, kept=2)
    assert not state.good
    assert "120,000.0 GB are needed" in state.found


def test_the_file_system_of_the_state_is_tried(tmp_path):
    found = machine.file_system(tmp_path / "not" / "made" / "yet")
    assert found.good
    assert found.found.endswith(": locks hold, renames replace, its clock is ours")
    assert list(tmp_path.iterdir()) == []
    assert machine.file_system_of(Path("/proc/self")) == "proc"


def test_locks_that_do_not_hold_are_found(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    assert machine._locks_hold(file)
    monkeypatch.setattr(machine.fcntl, "flock", lambda *_: None)
    assert not machine.file_system(tmp_path).good


def test_little_shared_memory_is_bad(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "SHARED_BYTES", 10**18)
    assert "--shm-size=8g" in machine.shared_memory(tmp_path).found
    assert not machine.shared_memory(tmp_path).good
    assert machine.shared_memory(tmp_path / "none").good


def test_a_port_of_the_user_that_is_taken_is_bad():
    assert machine.ports({}).good
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        found = machine.ports({"MASTER_PORT": str(taken.getsockname()[1])})
    assert not found.good
    assert "MASTER_PORT: expected a free port" in found.found


def test_values_of_the_user_for_nccl_are_shown_beside_ours(monkeypatch):
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    found = training.environment().found
    assert "NCCL_DEBUG=INFO, NCCL_SOCKET_IFNAME=eth0" in found
    assert "PYTORCH_ALLOC_CONF=expandable_segments:True" in found


def test_the_loader_is_measured_where_there_are_data_and_a_training(tmp_path, monkeypatch):
    root = a_project(tmp_path / "project")
    monkeypatch.chdir(root)
    cfg = JobConfig.load()
    assert training.loader(cfg) == machine.good("loader", "no data yet; every training measures it")
    words = " ".join(train_flags(root))
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": {"cmd": f"vla train {words}", "deps": []}}}))
    (root / "out").mkdir()
    (root / "out" / "training.json").write_text('{"loader_samples_per_s": 300.0, "loader_headroom": 2.0}')
    found = training.loader(cfg)
    assert found.good
    assert "the last training took 150 per worker" in found.found
    assert float(found.found.split()[0]) > 0
