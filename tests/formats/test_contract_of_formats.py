"""Every file in vla/formats keeps the contract of vla.formats."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.formats.miniatures import COLUMNS, MINIATURES, SIZE, Episode
from vla import registry
from vla.columns import Columns
from vla.errors import DataError
from vla.formats import Dataset


@pytest.fixture(params=registry.names("formats"))
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, list[Episode]]:
    assert request.param in MINIATURES, "add a miniature of the new format to tests/formats/miniatures.py"
    return request.param, tmp_path, MINIATURES[request.param](tmp_path)


@pytest.fixture
def opened(written: tuple[str, Path, list[Episode]]) -> Dataset:
    return open_written(written)


def open_written(written: tuple[str, Path, list[Episode]], columns: Columns = COLUMNS) -> Dataset:
    name, root, _ = written
    dataset: Dataset = registry.find("formats", name).open_dataset(root, columns, name="miniature")
    return dataset


def test_the_schema_describes_what_was_written(written: tuple[str, Path, list[Episode]], opened: Dataset) -> None:
    assert opened.schema.name == "miniature"
    assert opened.schema.format == written[0]
    assert opened.schema.fps > 0
    assert opened.schema.views == {"front": SIZE, "wrist": SIZE}
    assert opened.schema.state_dim == 4
    assert opened.schema.action_dim == 4


def test_the_episode_table_lists_length_and_instruction(
    written: tuple[str, Path, list[Episode]], opened: Dataset
) -> None:
    table = opened.episodes()
    assert table.schema.equals(
        pa.schema([("episode_id", pa.int64()), ("length", pa.int64()), ("instruction", pa.string())])
    )
    assert table["length"].to_pylist() == [len(episode.state) for episode in written[2]]
    assert table["instruction"].to_pylist() == [episode.instruction for episode in written[2]]


def test_steps_and_images_come_back_exactly(written: tuple[str, Path, list[Episode]], opened: Dataset) -> None:
    for episode_id, episode in zip(opened.episodes()["episode_id"].to_pylist(), written[2], strict=True):
        steps = opened.steps(episode_id)
        np.testing.assert_array_equal(steps.state_TS, episode.state)
        np.testing.assert_array_equal(steps.actions_TA, episode.actions)
        np.testing.assert_allclose(steps.timestamp_T, np.arange(len(episode.state)) / opened.schema.fps, atol=1e-6)
        assert steps.timestamp_T.dtype == np.float64
        for view, images in episode.images.items():
            read = opened.images(episode_id, view)
            assert read.dtype == np.uint8
            np.testing.assert_array_equal(read, images)


def test_order_of_reading_does_not_matter(opened: Dataset) -> None:
    ids = opened.episodes()["episode_id"].to_pylist()
    forwards = {episode: opened.images(episode, "wrist").tobytes() for episode in ids}
    for episode in reversed(ids):
        assert opened.images(episode, "wrist").tobytes() == forwards[episode]


def test_all_files_are_named_relative_to_the_root(written: tuple[str, Path, list[Episode]], opened: Dataset) -> None:
    present = sorted(path.relative_to(written[1]) for path in written[1].rglob("*") if path.is_file())
    assert set(opened.files()) <= set(present)
    assert opened.files() == sorted(opened.files())
    assert any(path.suffix == ".parquet" for path in opened.files())


def test_a_dataset_can_be_sent_to_another_process(opened: Dataset) -> None:
    first = opened.episodes()["episode_id"][0].as_py()
    opened.images(first, "front")
    copy: Dataset = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(copy.images(first, "front"), opened.images(first, "front"))


def test_an_episode_that_does_not_exist_is_an_error(opened: Dataset) -> None:
    with pytest.raises(DataError, match="found 777"):
        opened.steps(777)


@pytest.mark.parametrize("wrong", ["state", "actions", "views"])
def test_a_missing_column_is_named_together_with_what_there_is(
    written: tuple[str, Path, list[Episode]], wrong: str
) -> None:
    value = {"front": "no.such.column"} if wrong == "views" else "no.such.column"
    with pytest.raises(DataError, match=r"'no\.such\.column'.*found action.*observation\.state"):
        open_written(written, COLUMNS.model_copy(update={wrong: value}))


def test_a_truncated_data_file_is_an_error_that_names_it(written: tuple[str, Path, list[Episode]]) -> None:
    _, root, _ = written
    data = next(path for path in open_written(written).files() if path.parts[0] == "data")
    (root / data).write_bytes((root / data).read_bytes()[:-100])
    dataset = open_written(written)
    first = dataset.episodes()["episode_id"][0].as_py()
    with pytest.raises(DataError, match=rf"(?i)episode {first}.*{data.name}"):
        dataset.steps(first)


def test_a_missing_data_file_is_an_error_that_names_it(written: tuple[str, Path, list[Episode]]) -> None:
    _, root, _ = written
    data = next(path for path in open_written(written).files() if path.parts[0] == "data")
    (root / data).unlink()
    dataset = open_written(written)
    first = dataset.episodes()["episode_id"][0].as_py()
    with pytest.raises(DataError, match=rf"(?i)episode {first}.*{data.name}.*found none"):
        dataset.images(first, "front")
