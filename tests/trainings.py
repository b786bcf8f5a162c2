"""Trainings started as a person starts them, by `vla train` in a process of its own; and how they are killed."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from projects import REPOSITORY, train_flags

Process = subprocess.Popen[str]
TWO_WORKERS = {"execution.launcher": "torchrun", "execution.workers": 2, "execution.micro_batch": 2}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
LIMIT_S = 240.0


def environment(project: Path) -> dict[str, str]:
    names = ("TORCHELASTIC_RUN_ID", "DVC_STAGE", "DVC_EXP_NAME", "DVC_ROOT")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    uri = f"sqlite:///{project}/mlflow.db"
    return {**kept, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": uri}


def start(project: Path, out: str, *, launcher: tuple[str, ...] = ()) -> Process:
    """Begin or go on; `launcher`: modules and words before `vla`, such as torchrun's."""
    words = [sys.executable, *launcher, "-m", "vla", "train", *train_flags(project, out)]
    return subprocess.Popen(
        words, cwd=project, env=environment(project), start_new_session=True, stderr=subprocess.PIPE, text=True
    )


def finish(process: Process, *, code: int = 0) -> str:
    """Wait for the end; returns what was said."""
    _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, errors
    return errors


def family(process: Process) -> list[psutil.Process]:
    """The process, and all that it has started."""
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def kill_all(process: Process) -> None:
    """kill -9 of a process and everything it started."""
    for member in reversed(family(process)):
        member.kill()
    process.communicate()


def forget_states(project: Path) -> None:
    """Forget all trainings, so that the next one starts from nothing."""
    subprocess.run(["rm", "-rf", project / ".vla" / "state"], check=True)


def saved_steps(project: Path) -> list[int]:
    """Steps of the checkpoints of all trainings, ascending."""
    found = (project / ".vla" / "state").glob("*/checkpoints/*")
    return sorted(int(item.name) for item in found if item.name.isdigit())


def wait_for_step(project: Path, step: int) -> None:
    """Wait until a checkpoint of at least `step` exists."""
    _wait(lambda: max(saved_steps(project), default=0) >= step, f"a checkpoint of step {step}")


def wait_for_metrics(project: Path) -> None:
    """Wait until a training has logged its first steps."""
    journals = lambda: list((project / ".vla" / "state").glob("*/metrics.jsonl"))  # noqa: E731
    _wait(lambda: any(file.stat().st_size for file in journals()), "metrics")


def _wait(is_there, what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not is_there():
        assert time.monotonic() < deadline, f"no {what} within {LIMIT_S} s"
        time.sleep(0.02)


def weights(project: Path, out: str) -> str:
    return digest_of_weights(project / out / "policy")


def digest_of_weights(bundle: Path) -> str:
    return hashlib.sha256((bundle / "model.safetensors").read_bytes()).hexdigest()


def losses(project: Path, out: str) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (project / out / "training" / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["metrics"]["loss"]) for row in rows if "loss" in row["metrics"]]
