"""Every format can be fetched from elsewhere, whole and in part."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from tests.formats.miniatures import MINIATURES
from vla import registry
from vla.data import download
from vla.data.manifest import Manifest
from vla.data.sources import open_dataset
from vla.folder import Folder


def config(name: str, url: str, **data: Any) -> download.Config:
    miniature = MINIATURES[name]
    values = {
        "data": {"name": "test", "format": miniature.format, "columns": miniature.columns.plain(), **data},
        "seed": 0,
        "download": {"source": "url", "url": {"url": url}},
    }
    return download.Config.parse(values, where="test")


@pytest.fixture(params=MINIATURES)
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A miniature in a file system elsewhere, and nothing of it here; yields its name."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    MINIATURES[request.param](tmp_path / "written")
    files = fsspec.filesystem("memory")
    files.put(str(tmp_path / "written"), f"/{request.param}", recursive=True)
    (tmp_path / "written").rename(tmp_path / "away")
    yield request.param
    files.rm(f"/{request.param}", recursive=True)


def test_a_dataset_of_any_format_is_read_from_elsewhere_as_if_it_lay_here(bucket: str, tmp_path: Path) -> None:
    here = config(bucket, "memory://unused").model_dump(mode="json")
    here["download"] = {"source": "local", "local": {"path": str(tmp_path / "away")}}
    download.run(download.Config.parse(here, where="test"), dataset=tmp_path / "here")
    cfg = config(bucket, f"memory://{bucket}")
    download.run(cfg, dataset=tmp_path / "elsewhere")
    near, far = (open_dataset(cfg.data, tmp_path / name) for name in ("here", "elsewhere"))
    assert far.episodes().equals(near.episodes())
    for episode_id in near.episodes()["episode_id"].to_pylist():
        np.testing.assert_array_equal(far.steps(episode_id).actions_TA, near.steps(episode_id).actions_TA)
        for view in cfg.data.columns.views:
            np.testing.assert_array_equal(far.images(episode_id, view), near.images(episode_id, view))


def test_of_a_dataset_of_any_format_only_what_one_episode_needs_is_fetched(bucket: str, tmp_path: Path) -> None:
    whole = config(bucket, f"memory://{bucket}").data
    dataset = registry.find("formats", whole.format).open_dataset(Folder(tmp_path / "away"), whole.columns, name="x")
    first = dataset.episodes()["episode_id"][0].as_py()
    needed = {path.as_posix() for path in [*dataset.metadata_files(), *dataset.episode_files(first)]}
    part = config(bucket, f"memory://{bucket}", select={"episodes": [first]})
    download.run(part, dataset=tmp_path / "part")
    manifest = Manifest.read(tmp_path / "part")
    assert {entry.path for entry in manifest.files} == needed
    assert set(Folder(Path(manifest.root or "")).names()) == needed
    opened = open_dataset(part.data, tmp_path / "part")
    assert opened.episodes()["episode_id"].to_pylist() == [first]
    assert len(opened.steps(first)) == opened.episodes()["length"][0].as_py()
