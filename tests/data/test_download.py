"""The download stage: generated and pointed-to datasets, and what it refuses."""

import os
from pathlib import Path
from typing import Any

import pytest
from recordings import COLUMNS, write_recordings

from vla.data import download
from vla.data.manifest import Manifest
from vla.data.sources import open_dataset
from vla.errors import ConfigError, DataError

SIM = {
    "tasks": ["faucet-open-v3"],
    "episodes_per_task": 1,
    "image_size": [8, 8],
    "max_steps": 80,
    "noise": 0.1,
    "extras": [],
}


def config(*, source: str, columns: dict[str, Any] = COLUMNS, data_format: str = "lerobot_v30", **kinds: Any) -> Any:
    values = {
        "data": {"name": "test", "format": data_format, "columns": columns},
        "seed": 0,
        "download": {"source": source, **kinds},
    }
    return download.Config.parse(values, where="test")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return write_recordings(tmp_path / "recordings")


def test_a_simulated_dataset_can_be_opened_and_says_how_it_was_made(tmp_path: Path) -> None:
    cfg = config(source="sim", sim=SIM, local=None)
    download.run(cfg, dataset=tmp_path / "dataset")
    manifest = Manifest.read(tmp_path / "dataset")
    assert manifest.source == {"kind": "sim", "seed": 0, **SIM}
    assert manifest.root is None
    assert all(entry.sha256 for entry in manifest.files)
    opened = open_dataset(cfg.data, tmp_path / "dataset")
    assert opened.episodes()["instruction"].to_pylist() == ["open the faucet"]
    needed = [path for episode in (0,) for path in opened.sources[0].dataset.episode_files(episode)]
    assert {path.as_posix() for path in needed} <= {entry.path for entry in manifest.files}


def test_a_local_dataset_is_pointed_to_and_not_copied(tmp_path: Path, elsewhere: Path) -> None:
    cfg = config(source="local", local={"path": str(elsewhere)})
    download.run(cfg, dataset=tmp_path / "dataset")
    assert [path.name for path in (tmp_path / "dataset").iterdir()] == ["manifest.json"]
    manifest = Manifest.read(tmp_path / "dataset")
    assert manifest.root == str(elsewhere)
    assert all(entry.sha256 is None and entry.mtime_ns for entry in manifest.files)
    assert len(open_dataset(cfg.data, tmp_path / "dataset").episodes()) == 3


def test_a_relative_path_is_meant_from_the_project(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    cfg = config(source="local", local={"path": elsewhere.name})
    download.run(cfg, dataset=tmp_path / "dataset")
    assert Manifest.read(tmp_path / "dataset").root == str(elsewhere)


@pytest.mark.parametrize("change", ["time", "size"])
def test_data_that_changed_in_place_are_refused_when_they_are_read(
    tmp_path: Path, elsewhere: Path, change: str
) -> None:
    cfg = config(source="local", local={"path": str(elsewhere)})
    download.run(cfg, dataset=tmp_path / "dataset")
    data = next(elsewhere.glob("data/**/*.parquet"))
    if change == "time":
        os.utime(data, ns=(0, 1))
    else:
        data.write_bytes(data.read_bytes() + b"more")
    opened = open_dataset(cfg.data, tmp_path / "dataset")  # reads metadata, which is as it was
    with pytest.raises(DataError, match=r"file-000\.parquet.*Run 'dvc repro -f -s download'"):
        opened.steps(0)


def test_metadata_that_changed_in_place_are_refused_when_the_dataset_is_opened(tmp_path: Path, elsewhere: Path) -> None:
    cfg = config(source="local", local={"path": str(elsewhere)})
    download.run(cfg, dataset=tmp_path / "dataset")
    os.utime(elsewhere / "meta/info.json", ns=(0, 1))
    with pytest.raises(DataError, match=r"info\.json: expected the file as it was at download, found one wri"):
        open_dataset(cfg.data, tmp_path / "dataset")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"download\.local\.path: expected a dataset folder, found none at .*nowhere"):
        download.run(config(source="local", local={"path": str(tmp_path / "nowhere")}), dataset=tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_missing_files_are_counted_and_the_first_is_named(tmp_path: Path, elsewhere: Path) -> None:
    next(elsewhere.glob("data/**/*.parquet")).unlink()
    with pytest.raises(DataError, match=r"1 of them missing: data/.*file-000\.parquet\..*set data\.select\.present"):
        download.run(config(source="local", local={"path": str(elsewhere)}), dataset=tmp_path / "dataset")


@pytest.mark.parametrize("source", ["sim", "local", "hub", "url"])
def test_a_source_without_its_settings_is_an_error(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError, match=rf"download\.{source}: expected"):
        download.run(config(source=source), dataset=tmp_path / "dataset")


def test_another_format_than_the_written_one_is_an_error_before_simulating(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.format: expected 'lerobot_v30'.*found 'stepwise'"):
        download.run(config(source="sim", sim=SIM, data_format="stepwise"), dataset=tmp_path / "dataset")


def test_a_column_that_is_not_written_is_an_error_before_simulating(tmp_path: Path) -> None:
    columns = {**COLUMNS, "state": "observation.stat"}
    with pytest.raises(ConfigError, match=r"Did you mean 'observation\.state'"):
        download.run(config(source="sim", sim=SIM, columns=columns), dataset=tmp_path / "dataset")


def test_a_dataset_that_exists_stays_when_a_new_one_fails(tmp_path: Path) -> None:
    kept = tmp_path / "dataset" / "kept.txt"
    kept.parent.mkdir()
    kept.write_text("before")
    with pytest.raises(DataError, match="successes"):
        download.run(config(source="sim", sim={**SIM, "max_steps": 2}), dataset=tmp_path / "dataset")
    assert kept.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
