"""The download stage: generated and pointed-to datasets, and what it refuses."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recordings import COLUMNS, DATA_FILE, LENGTHS, write_recordings

from vla.data import download
from vla.data.manifest import Manifest
from vla.data.sources import open_dataset, reading_code
from vla.errors import ConfigError, DataError

SIM = {
    "tasks": ["faucet-open-v3"],
    "episodes_per_task": 1,
    "image_size": [8, 8],
    "max_steps": 80,
    "noise": 0.1,
    "extras": [],
}


def config(
    *,
    source: str,
    columns: dict[str, Any] = COLUMNS,
    data_format: str = "lerobot_v30",
    data: dict[str, Any] | None = None,
    **kinds: Any,
) -> download.Config:
    values = {
        "data": {"name": "test", "format": data_format, "columns": columns, **(data or {})},
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


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_refused_instead_of_reading_the_projects_folder(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"download\.local\.path: expected a folder, found '{path}'"):
        config(source="local", local={"path": path})


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


def split_in_files(root: Path) -> None:
    """Give each episode of a dataset a data file of its own, as writers do when files become large."""
    table = pq.read_table(root / DATA_FILE)
    for number, start in enumerate(np.cumsum([0, *LENGTHS[:-1]])):
        pq.write_table(table.slice(start, LENGTHS[number]), root / f"data/chunk-000/file-{number:03d}.parquet")
    path = next((root / "meta/episodes").rglob("*.parquet"))
    episodes = pq.read_table(path)
    place = episodes.schema.get_field_index("data/file_index")
    episodes = episodes.set_column(place, "data/file_index", pa.array(range(len(LENGTHS)), pa.int64()))
    pq.write_table(episodes, path)


def test_episodes_with_missing_files_are_left_out_and_counted_when_it_is_said(
    tmp_path: Path, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split_in_files(elsewhere)
    (elsewhere / "data/chunk-000/file-001.parquet").unlink()
    missing = r"expected 3 files, found 1 of them missing: data/chunk-000/file-001\.parquet\."
    with pytest.raises(DataError, match=missing):
        download.run(config(source="local", local={"path": str(elsewhere)}), dataset=tmp_path / "dataset")
    cfg = config(source="local", local={"path": str(elsewhere)}, data={"select": {"present": True}})
    with caplog.at_level("INFO", logger="vla"):
        download.run(cfg, dataset=tmp_path / "dataset")
    assert "test: 1 episodes left out: with missing files" in caplog.text
    opened = open_dataset(cfg.data, tmp_path / "dataset")
    assert opened.episodes()["episode_id"].to_pylist() == [0, 2]
    assert opened.sources[0].selected.left_out == {"with missing files": 1}


def test_only_the_files_of_the_selected_episodes_are_looked_at(tmp_path: Path, elsewhere: Path) -> None:
    split_in_files(elsewhere)
    (elsewhere / "data/chunk-000/file-001.parquet").unlink()
    cfg = config(source="local", local={"path": str(elsewhere)}, data={"select": {"episodes": [0, 2]}})
    download.run(cfg, dataset=tmp_path / "dataset")
    listed = [entry.path for entry in Manifest.read(tmp_path / "dataset").files if entry.path.startswith("data")]
    assert listed == ["data/chunk-000/file-000.parquet", "data/chunk-000/file-002.parquet"]


def test_episodes_that_are_not_selected_do_not_count_as_missing(tmp_path: Path, elsewhere: Path) -> None:
    split_in_files(elsewhere)
    select = {"present": True, "per_instruction": 1}
    cfg = config(source="local", local={"path": str(elsewhere)}, data={"select": select})
    download.run(cfg, dataset=tmp_path / "dataset")
    opened = open_dataset(cfg.data, tmp_path / "dataset")
    assert opened.episodes()["episode_id"].to_pylist() == [0, 1]
    assert opened.sources[0].selected.left_out == {"beyond data.select.per_instruction": 1}


@pytest.fixture
def mixture(tmp_path: Path, elsewhere: Path) -> dict[str, Any]:
    """The settings of two local datasets, each of the main one's columns."""
    far = write_recordings(tmp_path / "far", seed=100)
    return {
        "local": {"path": str(elsewhere)},
        "data": {"mixture": {"far": {"format": "lerobot_v30", "columns": COLUMNS}}},
        "mixture": {"far": {"source": "local", "local": {"path": str(far)}}},
    }


def test_the_datasets_of_a_mixture_each_have_a_manifest(tmp_path: Path, mixture: dict[str, Any]) -> None:
    cfg = config(source="local", **mixture)
    download.run(cfg, dataset=tmp_path / "dataset")
    main, far = Manifest.read(tmp_path / "dataset"), Manifest.read(tmp_path / "dataset/mixture/far")
    assert main.mixture == {"far": far.digest}
    assert main.code is None
    assert far.code == reading_code("lerobot_v30")
    assert open_dataset(cfg.data, tmp_path / "dataset").episodes()["source"].to_pylist() == ["test"] * 3 + ["far"] * 3


def test_a_simulated_dataset_can_be_mixed_with_a_recorded_one(tmp_path: Path, mixture: dict[str, Any]) -> None:
    cfg = config(source="sim", sim=SIM, data=mixture["data"], mixture=mixture["mixture"])
    download.run(cfg, dataset=tmp_path / "dataset")
    assert not [entry.path for entry in Manifest.read(tmp_path / "dataset").files if "mixture" in entry.path]
    assert open_dataset(cfg.data, tmp_path / "dataset").episodes()["source"].to_pylist() == ["test"] + ["far"] * 3


def test_a_change_in_a_further_dataset_changes_the_digest_of_all(tmp_path: Path, mixture: dict[str, Any]) -> None:
    cfg = config(source="local", **mixture)
    download.run(cfg, dataset=tmp_path / "dataset")
    before = Manifest.read(tmp_path / "dataset").digest
    os.utime(tmp_path / "far" / DATA_FILE, ns=(0, 1))
    download.run(cfg, dataset=tmp_path / "dataset")
    assert Manifest.read(tmp_path / "dataset").digest != before


def test_datasets_that_do_not_go_together_are_refused_at_download(tmp_path: Path, mixture: dict[str, Any]) -> None:
    mixture["data"]["mixture"]["far"]["columns"] = {**COLUMNS, "state": "observation.state[0:2]"}
    with pytest.raises(DataError, match="expected the state dimensions of test, 4, found 2"):
        download.run(config(source="local", **mixture), dataset=tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_a_dataset_that_nothing_mixes_in_is_refused(tmp_path: Path, mixture: dict[str, Any]) -> None:
    mixture["mixture"]["fra"] = mixture["mixture"]["far"]
    with pytest.raises(ConfigError, match=r"datasets of data\.mixture \(far\), found 'fra'\. Did you mean 'far'\?"):
        download.run(config(source="local", **mixture), dataset=tmp_path / "dataset")


def test_a_further_dataset_without_a_source_is_refused(tmp_path: Path, mixture: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"download\.mixture\.far: expected where data\.mixture\.far comes from"):
        download.run(config(source="local", **{**mixture, "mixture": {}}), dataset=tmp_path / "dataset")


def test_a_wrong_setting_of_a_further_dataset_is_named_with_its_place(tmp_path: Path, mixture: dict[str, Any]) -> None:
    mixture["mixture"]["far"] = {"source": "local", "local": {"path": "nowhere"}}
    with pytest.raises(DataError, match=r"download\.mixture\.far\.local\.path: expected a dataset folder, found none"):
        download.run(config(source="local", **mixture), dataset=tmp_path / "dataset")
