"""Jobs of a toy project, to be run in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from projects import a_project, train_paths, write_params

from vla.training.job import Job, JobConfig


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def make_job(project: Path, tmp_path: Path) -> Callable[..., Job]:
    """Makes jobs of the project with changed parameters (`train__steps=3`), each with its own state."""

    def make(name: str = "run", **changes: object) -> Job:
        write_params(project, {key.replace("__", "."): value for key, value in changes.items()})
        inputs = {key: train_paths(project)[key] for key in ("dataset", "episodes", "norm_stats")}
        (tmp_path / name).mkdir(exist_ok=True)
        cfg = JobConfig.load(project / "params.yaml")
        return Job(cfg=cfg, **inputs, state=tmp_path / name, frames=tmp_path / "frames", code="0", passport={})

    return make
