"""A small real DVC project: three stages in a row that report as ours do, steered by `params.yaml`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

STAGE = """
import json, signal, sys, time
from pathlib import Path
import yaml
from vla import lifeline, reports
from vla.errors import Preempted

name, *outs = sys.argv[1:]
lifeline.start(grace=5.0, poll=0.05)
settings = yaml.safe_load(Path("params.yaml").read_text())[name]

def save(*_):
    time.sleep(0.5)
    Path(settings["saved"]).touch()
    sys.exit(75)

if "saved" in settings:
    signal.signal(signal.SIGTERM, save)
with reports.reported(name):
    print("hello from", name)
    print("\\rprogress 50 %", end="")
    print("\\rprogress 100 %")
    if "started" in settings:
        Path(settings["started"]).touch()
    time.sleep(settings.get("seconds", 0))
    if "problem" in settings:
        raise ValueError(settings["problem"])
    if "preempted" in settings:
        raise Preempted(settings["preempted"])
    if name == "last":
        reports.announce_run(name, "run-1")
    for out in outs:
        Path(out).parent.mkdir(exist_ok=True)
        Path(out).write_text(json.dumps({"value": settings["value"], "name": name, "more": {"value": 0}}))
"""
# Not in the order in which they run.
PIPELINE = """
stages:
  last:
    cmd: python stage.py last last.json plots/curve.png
    params: [last]
    deps: [middle.json]
    outs: [plots]
    metrics: [last.json]
  first: {cmd: python stage.py first first.json, params: [first], outs: [first.json]}
  middle: {cmd: python stage.py middle middle.json, params: [middle], deps: [first.json], outs: [middle.json]}
"""
STAGES = ["first", "middle", "last"]


def make_project(folder: Path) -> Path:
    folder.mkdir()
    (folder / "stage.py").write_text(STAGE)
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / ".gitignore").write_text("*.json\n/plots\n__pycache__/\n")
    (folder / "vla").mkdir()
    (folder / "vla/README").write_text("Code lies here.\n")
    set_params(folder)
    git(folder, "init", "--quiet")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Start")
    return folder


def set_params(folder: Path, **changes: dict[str, Any]) -> None:
    """Write params.yaml with the given settings of stages."""
    values = {stage: {"value": place} | changes.get(stage, {}) for place, stage in enumerate(STAGES)}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True)
