"""A toy project and jobs of it, for tests of whole trainings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from projects import a_job, a_project, write_params

from vla.training.job import Job


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def make_job(project: Path, tmp_path: Path) -> Callable[..., Job]:
    """Makes jobs of the project with changed parameters, each with its own state."""

    def make(name: str = "run", **changes: Any) -> Job:
        write_params(project, {key.replace("__", "."): value for key, value in changes.items()})
        (tmp_path / name).mkdir(exist_ok=True)
        return a_job(project, state=tmp_path / name, frames=tmp_path / "frames")

    return make
