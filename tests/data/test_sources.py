"""The datasets of a project: one, or a mixture, opened as one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import COLUMNS, INSTRUCTIONS, LENGTHS, write_recordings

from vla.data.manifest import Manifest
from vla.data.sources import SHIFT, DataConfig, open_dataset, reading_code, source_folder
from vla.errors import ConfigError, DataError

SOURCE = {"format": "lerobot_v30", "columns": COLUMNS}


def config(**changes: Any) -> DataConfig:
    return DataConfig.parse({"name": "near", **SOURCE, **changes}, where="test")


def mixed(**changes: Any) -> DataConfig:
    return config(mixture={"far": {**SOURCE, **changes}})


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """What the download stage leaves of two datasets."""
    for name, seed in (("near", 0), ("far", 100)):
        root = write_recordings(tmp_path / name, seed=seed)
        folder = source_folder(tmp_path / "dataset", mixed(), name)
        folder.mkdir(parents=True)
        files = [path for path in root.rglob("*") if path.is_file()]
        manifest = Manifest.describe(files, root=root, format_name="lerobot_v30", source={}, in_place=True)
        replace(manifest, code=None if name == "near" else reading_code("lerobot_v30")).write(folder)
    return tmp_path / "dataset"


def test_a_single_dataset_keeps_its_episode_ids(dataset: Path) -> None:
    opened = open_dataset(config(), dataset)
    table = opened.episodes()
    assert table["episode_id"].to_pylist() == [0, 1, 2]
    assert table["source"].to_pylist() == ["near"] * 3
    assert [opened.uid_parts(episode) for episode in (0, 1, 2)] == [("near", 0), ("near", 1), ("near", 2)]


def test_a_mixture_has_the_episodes_of_all_with_ids_of_their_own(dataset: Path) -> None:
    opened = open_dataset(mixed(), dataset)
    table = opened.episodes()
    further = 1 << SHIFT
    assert table["episode_id"].to_pylist() == [0, 1, 2, further, further + 1, further + 2]
    assert table["source"].to_pylist() == ["near"] * 3 + ["far"] * 3
    assert table["length"].to_pylist() == list(LENGTHS) * 2
    assert table["instruction"].to_pylist() == list(INSTRUCTIONS) * 2


def test_every_source_is_read_as_on_its_own(dataset: Path, tmp_path: Path) -> None:
    opened = open_dataset(mixed(), dataset)
    far = opened.sources[1].dataset
    wide = (1 << SHIFT) + 1
    np.testing.assert_array_equal(opened.steps(wide).actions_TA, far.steps(1).actions_TA)
    np.testing.assert_array_equal(opened.images(wide, "wrist"), far.images(1, "wrist"))
    np.testing.assert_array_equal(opened.images(wide, "wrist", np.array([3, 0])), far.images(1, "wrist")[[3, 0]])
    np.testing.assert_array_equal(opened.block_starts(wide), far.block_starts(1))
    assert opened.recorded_ranges(wide).keys() == far.recorded_ranges(1).keys()
    assert not np.array_equal(opened.steps(1).actions_TA, opened.steps(wide).actions_TA)


def test_an_episode_has_the_same_uid_parts_wherever_it_is_mixed_in(dataset: Path) -> None:
    opened = open_dataset(mixed(), dataset)
    assert opened.uid_parts((1 << SHIFT) + 2) == ("far", 2)


def test_each_source_has_its_own_selection(dataset: Path) -> None:
    opened = open_dataset(mixed(select={"episodes": [1]}), dataset)
    assert opened.episodes()["episode_id"].to_pylist() == [0, 1, 2, (1 << SHIFT) + 1]
    assert opened.sources[1].selected.left_out == {"not in data.select.episodes": 2}


def test_an_episode_of_no_source_is_an_error(dataset: Path) -> None:
    with pytest.raises(DataError, match="expected an episode of 1 datasets"):
        open_dataset(config(), dataset).steps(1 << SHIFT)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {**COLUMNS, "views": {"front": "observation.images.front"}},
            r"the views of near, \['front', 'wrist'\], found",
        ),
        ({**COLUMNS, "state": "observation.state[0:2]"}, "the state dimensions of near, 4, found 2"),
        ({**COLUMNS, "actions": ["action", "action"]}, "the action dimensions of near, 4, found 8"),
    ],
)
def test_datasets_that_do_not_go_together_are_named(dataset: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.mixture\.far: expected {message}.*data\.mixture\.far\.columns"):
        open_dataset(mixed(columns=columns), dataset)


def test_a_further_dataset_read_by_other_code_is_refused(dataset: Path) -> None:
    folder = source_folder(dataset, mixed(), "far")
    replace(Manifest.read(folder), code="0" * 64).write(folder)
    with pytest.raises(DataError, match=r"far: expected the code of vla/formats/lerobot_v30\.py as at download"):
        open_dataset(mixed(), dataset)


def test_another_format_than_the_downloaded_one_is_refused(dataset: Path) -> None:
    replace(Manifest.read(dataset), format="stepwise").write(dataset)
    with pytest.raises(DataError, match=r"expected format 'lerobot_v30' \(data\.format\), found 'stepwise'"):
        open_dataset(config(), dataset)


def test_a_source_that_was_not_downloaded_names_the_command(dataset: Path) -> None:
    with pytest.raises(DataError, match=r"mixture/other/manifest\.json: expected a file.*dvc repro download"):
        open_dataset(config(mixture={"other": SOURCE}), dataset)


def test_what_was_left_out_at_download_is_what_counts(dataset: Path) -> None:
    replace(Manifest.read(dataset), left_out={"with missing files": 7}).write(dataset)
    assert open_dataset(config(), dataset).sources[0].selected.left_out == {"with missing files": 7}


@pytest.mark.parametrize(("near", "far"), [(1.0, None), (None, 2.0)])
def test_weights_are_given_for_all_or_for_none(near: float | None, far: float | None) -> None:
    with pytest.raises(ConfigError, match="expected a weight for every dataset of the mixture, or for none"):
        config(weight=near, mixture={"far": {**SOURCE, "weight": far}})
    assert config(weight=1.0, mixture={"far": {**SOURCE, "weight": 2.0}}).sources["far"].weight == 2.0


def test_a_weight_is_positive() -> None:
    with pytest.raises(ConfigError, match=r"mixture\.far\.weight"):
        config(weight=1.0, mixture={"far": {**SOURCE, "weight": 0.0}})


def test_two_datasets_have_two_names() -> None:
    with pytest.raises(ConfigError, match="expected names of the mixture other than the dataset's own 'near'"):
        config(mixture={"near": SOURCE})


@pytest.mark.parametrize("name", ["../far", "a/b", ".hidden", ""])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        config(mixture={name: SOURCE})
