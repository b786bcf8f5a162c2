"""A temporary clone of the project, with a commit of its own, in which the real pipeline runs."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from projects import REPOSITORY

from vla.stages import STAGES


class Clone:
    """A clone of the working tree."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names = ["git", "-C", REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(names, capture_output=True, text=True, check=True).stdout.split("\0")
        for name in filter(None, files):
            if (REPOSITORY / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes((REPOSITORY / name).read_bytes())
        self.git("init", "-q")
        self.git("add", "-A")
        self.commit("clone")

    def git(self, *words: str) -> None:
        subprocess.run(["git", "-C", self.root, *words], check=True, capture_output=True)

    def commit(self, message: str) -> None:
        author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        self.git(*author, "commit", "-q", "--all", "--message", message)

    def change(self, **changes: Any) -> None:
        """Change parameters; dots of a name are written as `__`."""
        path = self.root / "params.yaml"
        values = yaml.safe_load(path.read_text())
        for name, value in changes.items():
            *parents, last = name.split("__")
            place = values
            for key in parents:
                place = place[key]
            place[last] = value
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def environment(self, **more: str) -> dict[str, str]:
        names = ("PYTHONPATH", "MLFLOW_TRACKING_URI", "DVC_STAGE", "DVC_ROOT", "DVC_EXP_NAME", "VLA_STAGE_REPORTS")
        kept = {name: value for name, value in os.environ.items() if name not in names}
        kept |= {"GIT_AUTHOR_NAME": "test", "GIT_AUTHOR_EMAIL": "t@localhost", "DVC_NO_ANALYTICS": "1"}
        kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        return {**kept, "GIT_COMMITTER_NAME": "test", "GIT_COMMITTER_EMAIL": "t@localhost", **more}

    def start(self, *words: str, **more: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", *words],
            cwd=self.root,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def dvc(self, *words: str, **more: str) -> str:
        """Run dvc to its end and return its output; a failure fails the test with that output."""
        process = self.start(*words, **more)
        try:
            output, _ = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        assert process.returncode == 0, output
        return output

    def repro(self, *words: str) -> list[str]:
        """The stages that `dvc repro` ran."""
        reports = self.root.parent / f"reports-{time.monotonic_ns()}"
        reports.mkdir()
        self.dvc("repro", *words, VLA_STAGE_REPORTS=str(reports))
        return [stage for stage in STAGES if (reports / f"{stage}.started").exists()]

    def read(self, path: str) -> Any:
        return json.loads((self.root / path).read_text())

    def versions(self) -> dict[str, list[str]]:
        """Registered versions and their aliases."""
        found = self.tracking.search_model_versions("name = 'vlaflow-policy'")
        return {str(item.version): sorted(item.aliases) for item in found}

    def experiments(self) -> set[str]:
        """Names of the DVC experiments that have a run in MLflow."""
        known = [experiment.experiment_id for experiment in self.tracking.search_experiments()]
        runs = self.tracking.search_runs(known)
        return {run.data.tags["dvc_experiment"] for run in runs if "dvc_experiment" in run.data.tags}

    @property
    def tracking(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.root}/mlflow.db")

    def weights(self) -> str:
        return hashlib.sha256((self.root / "outputs/policy/model.safetensors").read_bytes()).hexdigest()
