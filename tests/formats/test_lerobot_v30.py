"""LeRobot v3.0: the variations that other writers leave, and damage that must not go unnoticed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats.files import png
from tests.formats.miniature_lerobot import COLUMNS, TASKS, Episode, config, demonstration, write_lerobot_v30
from vla import parquet
from vla.columns import Columns
from vla.errors import DataError
from vla.folder import Folder
from vla.formats.lerobot_v30 import LeRobotV30, open_dataset
from vla.sim import write

SHARED = Path(__file__).parents[3] / "shared" / "data"
NOISE = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
DATA = "data/chunk-000/file-000.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_lerobot_v30(tmp_path)
    return tmp_path


def opened(root: Path, columns: Columns = COLUMNS) -> LeRobotV30:
    return open_dataset(Folder(root), columns, name="test")


def change_info(root: Path, **values: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    pq.write_table(change(pq.read_table(path)), path, **options)


def replace(table: pa.Table, column: str, values: Any) -> pa.Table:
    place = table.schema.names.index(column)
    return table.set_column(place, column, values)


def check(dataset: LeRobotV30, episodes: list[Episode]) -> None:
    for number, episode in enumerate(episodes):
        np.testing.assert_array_equal(dataset.steps(number).actions_TA, episode.actions)
        np.testing.assert_array_equal(dataset.images(number, "wrist"), episode.images["wrist"])


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_row_groups_of_any_size_are_read(tmp_path: Path, rows: int) -> None:
    episodes = write_lerobot_v30(tmp_path)
    rewrite(tmp_path / DATA, lambda table: table, row_group_size=rows)
    check(opened(tmp_path), episodes)


def test_episodes_are_found_in_several_files_and_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "DATA_FILE_MB", 0)
    monkeypatch.setattr(write, "FILES_PER_CHUNK", 2)
    monkeypatch.setattr(parquet, "OPEN_FILES", 1)
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    episodes = write_lerobot_v30(tmp_path)
    assert len(list((tmp_path / "data").rglob("*.parquet"))) == 3
    assert (tmp_path / "data/chunk-001/file-000.parquet").is_file()
    dataset = opened(tmp_path)
    check(dataset, episodes)
    assert len(dataset._table_rows._files) == len(dataset._table_rows._groups) == 1


def test_the_task_text_may_be_an_unnamed_index(root: Path) -> None:
    rewrite(root / "meta/tasks.parquet", lambda table: table.rename_columns({"task": "__index_level_0__"}))
    assert opened(root).episodes()["instruction"].to_pylist() == [*TASKS.values(), "open the drawer"]


def test_a_task_table_without_text_is_an_error(root: Path) -> None:
    rewrite(root / "meta/tasks.parquet", lambda table: table.drop_columns(["task"]))
    with pytest.raises(DataError, match="task_index and a column task or __index_level_0__, found task_index"):
        opened(root).episodes()


def test_an_episode_without_a_task_has_an_empty_instruction_and_two_tasks_are_an_error(root: Path) -> None:
    path = root / "meta/episodes/chunk-000/file-000.parquet"

    def with_tasks(tasks: list[list[str]]) -> Callable[[pa.Table], pa.Table]:
        return lambda table: replace(table, "tasks", pa.array(tasks))

    rewrite(path, with_tasks([["open the drawer"], [], ["close the faucet"]]))
    assert opened(root).episodes()["instruction"].to_pylist() == ["open the drawer", "", "close the faucet"]
    rewrite(path, with_tasks([["open the drawer"], list(TASKS.values()), []]))
    with pytest.raises(DataError, match="episode 1: expected one task"):
        opened(root).episodes()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b", "c", "d"], ("a", "b", "c", "d")),
        ({"motors": ["a", "b", "c", "d"]}, ("a", "b", "c", "d")),
        ({"a": 0, "b": 1, "c": 2, "d": 3}, ("a", "b", "c", "d")),
        (None, ("action_0", "action_1", "action_2", "action_3")),
        (["too", "few"], ("action_0", "action_1", "action_2", "action_3")),
    ],
)
def test_dimensions_are_named_by_the_dataset_or_numbered(root: Path, names: Any, expected: tuple[str, ...]) -> None:
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["action"]["names"] = names
    change_info(root, features=features)
    assert opened(root).schema.action_names == expected


def test_images_may_be_declared_channels_first_and_fps_as_a_float(root: Path) -> None:
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["observation.images.front"]["shape"] = [3, 8, 10]
    change_info(root, features=features, fps=40.0)
    dataset = opened(root)
    assert dataset.schema.views["front"] == (8, 10)
    assert dataset.schema.fps == 40.0


@pytest.mark.parametrize("kind", [pa.float64(), pa.float16(), pa.int64()])
def test_numbers_of_any_type_become_float32(root: Path, kind: pa.DataType) -> None:
    numbers = np.arange(40).reshape(10, 4)

    def change(table: pa.Table) -> pa.Table:
        return replace(table, "action", pa.array(numbers.tolist(), pa.list_(kind)))

    rewrite(root / DATA, change)
    actions = opened(root).steps(1).actions_TA
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions, numbers[3:8])


def test_a_missing_number_is_nan_and_a_missing_row_is_an_error(root: Path) -> None:
    rows: list[list[float | None] | None] = [[0.0] * 4 for _ in range(10)]
    rows[1] = [0.0, None, 0.0, 0.0]
    rows[4] = None
    rewrite(root / DATA, lambda table: replace(table, "action", pa.array(rows, pa.list_(pa.float32()))))
    dataset = opened(root)
    assert np.argwhere(np.isnan(dataset.steps(0).actions_TA)).tolist() == [[1, 1]]
    with pytest.raises(DataError, match="episode 1, action: expected 4 numbers in each row"):
        dataset.steps(1)


def test_rows_of_unequal_length_are_an_error(root: Path) -> None:
    rows = [[0.0] * 4] * 8 + [[0.0] * 3, [0.0] * 5]
    rewrite(root / DATA, lambda table: replace(table, "action", pa.array(rows, pa.list_(pa.float32()))))
    with pytest.raises(DataError, match="episode 2, action: expected 4 numbers in each row"):
        opened(root).steps(2)


def test_text_is_no_state(root: Path) -> None:
    rewrite(root / DATA, lambda table: replace(table, "action", pa.array([["a"] * 4] * 10)))
    with pytest.raises(DataError, match="action: expected numbers, found string"):
        opened(root).steps(0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"no image", "expected an image file"),
        (png(NOISE)[:-60], "expected an image file"),
        (None, "expected an image, found none"),
        (png(np.zeros((9, 10, 3), dtype=np.uint8)), "expected 8 x 10 pixels as declared, found 9 x 10"),
    ],
    ids=["no image", "cut", "none", "other size"],
)
def test_a_damaged_image_is_named_by_episode_and_step(root: Path, image: bytes | None, message: str) -> None:
    column = "observation.images.front"

    def change(table: pa.Table) -> pa.Table:
        rows = table[column].to_pylist()
        rows[4] = {"bytes": image, "path": None}
        return replace(table, column, pa.array(rows, write.IMAGE))

    rewrite(root / DATA, change)
    with pytest.raises(DataError, match=rf"episode 1, {column}, step 1: {message}"):
        opened(root).images(1, "front")


def test_a_file_that_lost_rows_is_noticed(root: Path) -> None:
    rewrite(root / DATA, lambda table: table.slice(0, 9))
    dataset = opened(root)
    dataset.steps(1)
    with pytest.raises(DataError, match=r"Episode 2: .*file-000\.parquet: expected at least 10 rows, found 9"):
        dataset.steps(2)


def test_rows_of_another_episode_are_noticed(root: Path) -> None:
    rewrite(root / DATA, lambda table: pa.concat_tables([table.slice(1), table.slice(0, 1)]))
    with pytest.raises(DataError, match=r"episode 0: expected its rows at 0 to 3, found rows of the episodes \[0, 1\]"):
        opened(root).steps(0)


def test_a_dataset_of_another_version_is_an_error(root: Path) -> None:
    change_info(root, codebase_version="v2.1")
    with pytest.raises(DataError, match=r"expected codebase_version v3\.x, found v2\.1"):
        opened(root)


@pytest.mark.parametrize("missing", ["fps", "features", "data_path"])
def test_an_incomplete_description_is_an_error(root: Path, missing: str) -> None:
    change_info(root, **{missing: None})
    with pytest.raises(DataError, match=r"info\.json: expected fps, features and data_path"):
        opened(root)


def test_an_image_is_no_state_and_a_state_no_view(root: Path) -> None:
    with pytest.raises(DataError, match="expected a column of vectors, found image"):
        opened(root, COLUMNS.model_copy(update={"state": "observation.images.front"}))
    with pytest.raises(DataError, match="expected a camera, found float32"):
        opened(root, COLUMNS.model_copy(update={"views": {"front": "observation.state"}}))


@pytest.mark.parametrize("path", ["../{file_index}.parquet", "/etc/{file_index}", "a/../../{file_index}", "a\\b"])
def test_paths_that_leave_the_dataset_are_refused(root: Path, path: str) -> None:
    change_info(root, data_path=path)
    with pytest.raises(DataError, match="expected a path below"):
        opened(root).steps(0)


def test_a_path_with_unknown_fields_is_an_error(root: Path) -> None:
    change_info(root, data_path="data/{episode_chunk}.parquet")
    with pytest.raises(DataError, match="expected a path with the fields chunk_index, file_index"):
        opened(root).steps(0)


def test_a_dataset_without_an_episode_table_is_an_error(root: Path) -> None:
    (root / "meta/episodes/chunk-000/file-000.parquet").unlink()
    with pytest.raises(DataError, match="meta/episodes: expected Parquet files, found none"):
        opened(root)


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6), rows=st.integers(1, 12))
def test_whatever_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], rows: int
) -> None:
    root = tmp_path_factory.mktemp("dataset")
    made = [demonstration("drawer-open-v3", length, seed=number) for number, length in enumerate(lengths)]
    write.write_dataset(root, made, config())
    rewrite(root / DATA, lambda table: table, row_group_size=rows)
    dataset = opened(root)
    assert dataset.episodes()["length"].to_pylist() == lengths
    for number, each in enumerate(made):
        np.testing.assert_array_equal(dataset.steps(number).state_TS, each.state_TS)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference datasets are not on this machine")
@pytest.mark.parametrize("name", ["written_v30_video_044", "written_v30_video_061"])
def test_datasets_by_lerobot_itself_are_read(name: str) -> None:
    columns = Columns(state="observation.state", actions="action", views={"cam": "observation.images.cam"})
    dataset = opened(SHARED / name, columns)
    table = dataset.episodes()
    assert len(table) == 50
    assert set(table["length"].to_pylist()) == {200}
    assert set(table["instruction"].to_pylist()) == {
        "pick up the red block",
        "push the block to the left",
        "open the drawer",
    }
    steps = dataset.steps(49)
    assert steps.state_TS.shape == (200, 8)
    assert steps.actions_TA.shape == (200, 7)
    np.testing.assert_allclose(steps.timestamp_T, np.arange(200) / 20, atol=1e-5)
    assert dataset.schema.views == {"cam": (96, 96)}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference datasets are not on this machine")
def test_video_frames_have_the_statistics_that_lerobot_stored_for_their_episode() -> None:
    columns = Columns(state="observation.state", actions="action", views={"cam": "observation.images.cam"})
    root = SHARED / "written_v30_video_061"
    dataset = opened(root, columns)
    assert Path("videos/observation.images.cam/chunk-000/file-000.mp4") in dataset.episode_files(0)
    stored = pq.read_table(root / "meta/episodes", columns=["stats/observation.images.cam/mean"])
    for episode in (0, 13, 49):
        frames = dataset.images(episode, "cam")
        mean = np.array(stored[0][episode].as_py()).ravel()
        assert frames.shape == (200, 96, 96, 3)
        np.testing.assert_allclose(frames.mean(axis=(0, 1, 2)) / 255, mean, atol=0.01)


def test_a_video_that_the_episode_table_does_not_place_is_an_error(root: Path) -> None:
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["observation.images.front"]["dtype"] = "video"
    change_info(root, features=features)
    with pytest.raises(DataError, match=r"episodes.*expected the columns .*found no videos/observation\.images\.front"):
        opened(root)
