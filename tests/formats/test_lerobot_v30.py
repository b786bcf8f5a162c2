"""LeRobot v3.0: the variations that other writers leave, and damage that must not go unnoticed."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats.files import change_feature, change_info, png, replace, rewrite, spoil_row_group, write_table
from tests.formats.miniature_lerobot import (
    COLUMNS,
    TASKS,
    Episode,
    config,
    demonstration,
    features,
    write_info,
    write_lerobot_v30,
)
from vla import parquet
from vla.columns import Columns
from vla.errors import DataError
from vla.folder import Folder
from vla.formats.lerobot_v30 import LeRobotV30, open_dataset, suggest_columns
from vla.sim import write

NOISE = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_lerobot_v30(tmp_path)
    return tmp_path


def opened(root: Path, columns: Columns = COLUMNS) -> LeRobotV30:
    return open_dataset(Folder(root), columns, name="test")


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
    check(opened(tmp_path), episodes)


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
    change_feature(root, "action", names=names)
    assert opened(root).schema.action_names == expected


def test_images_may_be_declared_channels_first_and_fps_as_a_float(root: Path) -> None:
    change_feature(root, "observation.images.front", shape=[3, 8, 10])
    change_info(root, fps=40.0)
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


def test_an_image_is_no_state_and_a_state_no_view(root: Path) -> None:
    with pytest.raises(DataError, match="expected a column of vectors, found image"):
        opened(root, COLUMNS.model_copy(update={"state": "observation.images.front"}))
    with pytest.raises(DataError, match="expected a camera, found float32"):
        opened(root, COLUMNS.model_copy(update={"views": {"front": "observation.state"}}))


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


def test_a_video_that_the_episode_table_does_not_place_is_an_error(root: Path) -> None:
    change_feature(root, "observation.images.front", dtype="video")
    with pytest.raises(DataError, match=r"episodes.*expected the columns .*found no videos/observation\.images\.front"):
        opened(root)


def change_tasks(root: Path, tasks: list[list[str]]) -> None:
    rewrite(root / EPISODES, lambda table: replace(table, "tasks", pa.array(tasks)))


def test_a_column_of_the_data_resolves_several_tasks(root: Path) -> None:
    change_tasks(root, [["open the drawer"], list(TASKS.values()), ["close the faucet"]])
    with pytest.raises(DataError, match=r"episode 1: expected one task, .*data\.columns\.instruction .* task_index\)"):
        opened(root).episodes()
    assert len(opened(root).steps(1)) == 5, "all but the instructions can be read"
    texts = opened(root, COLUMNS.model_copy(update={"instruction": "task_index"})).episodes()["instruction"]
    assert texts.to_pylist() == [*TASKS.values(), "close the faucet"], "the data are asked about episode 1 alone"


def test_a_column_of_text_is_read_at_the_first_row_of_each_episode(root: Path) -> None:
    said = pa.array([f"row {row}" for row in range(10)])
    rewrite(root / DATA, lambda table: table.append_column("said", said))
    texts = opened(root, COLUMNS.model_copy(update={"instruction": "said"})).episodes()["instruction"]
    assert texts.to_pylist() == ["row 0", "row 3", "row 8"]
    rewrite(root / DATA, lambda table: table.slice(0, 8))
    texts = opened(root, COLUMNS.model_copy(update={"instruction": "said"})).episodes()["instruction"]
    assert texts.to_pylist() == ["row 0", "row 3", ""], "whoever reads episode 2 is told what is wrong with it"


def test_the_instruction_is_suggested_where_episodes_have_several_tasks(root: Path) -> None:
    assert suggest_columns(root).instruction is None
    change_tasks(root, [list(TASKS.values())] * 3)
    assert suggest_columns(root).instruction == "task_index"


def test_a_task_that_the_table_of_tasks_lacks_is_an_error(root: Path) -> None:
    change_tasks(root, [["open the drawer"], ["dance"], []])
    with pytest.raises(DataError, match=r"episode 1: expected tasks of meta/tasks\.parquet, found 'dance'"):
        opened(root).episodes()


def test_the_episode_table_may_come_in_any_order_and_in_several_files(tmp_path: Path) -> None:
    made = write_lerobot_v30(tmp_path)
    whole = pq.read_table(tmp_path / EPISODES)
    pq.write_table(whole.take([2, 0]), tmp_path / EPISODES)
    pq.write_table(whole.take([1]), tmp_path / "meta/episodes/chunk-000/file-001.parquet")
    dataset = opened(tmp_path)
    assert dataset.episodes()["length"].to_pylist() == [3, 5, 2]
    check(dataset, made)
    for episode in made:
        low, high = dataset.recorded_ranges(episode.number)["actions"]
        np.testing.assert_allclose([low, high], [episode.actions.min(axis=0), episode.actions.max(axis=0)], rtol=1e-6)
    pq.write_table(whole.take([1, 1]), tmp_path / "meta/episodes/chunk-000/file-001.parquet")
    with pytest.raises(DataError, match="meta/episodes: expected each episode once, found 1 again"):
        opened(tmp_path)


def test_a_dataset_without_statistics_has_no_recorded_ranges(root: Path) -> None:
    rewrite(root / EPISODES, lambda table: table.drop_columns(["stats/action/min"]))
    assert set(opened(root).recorded_ranges(0)) == {"state"}
    rewrite(root / EPISODES, lambda table: table.drop_columns([name for name in table.column_names if "stats" in name]))
    assert opened(root).recorded_ranges(0) == {}


@pytest.mark.parametrize("column", ["length", "data/file_index", "dataset_from_index"])
def test_a_missing_number_in_the_episode_table_is_an_error(root: Path, column: str) -> None:
    rewrite(root / EPISODES, lambda table: replace(table, column, pa.array([0, None, 0], pa.int64())))
    with pytest.raises(
        DataError, match=rf"file-000\.parquet: {column}: expected a number in every row, found int64 with 1"
    ):
        opened(root)


def test_an_image_of_some_steps_is_read_without_the_others(tmp_path: Path) -> None:
    made = write_lerobot_v30(tmp_path)
    rewrite(tmp_path / DATA, lambda table: table, row_group_size=2)
    dataset = opened(tmp_path)
    assert dataset.block_starts(1).tolist() == [0, 1, 3]
    spoil_row_group(tmp_path / DATA, 2)
    np.testing.assert_array_equal(dataset.images(1, "front", np.array([4, 3])), made[1].images["front"][[4, 3]])
    with pytest.raises(DataError, match=r"Episode 1: .*file-000\.parquet"):
        dataset.images(1, "front", np.array([2]))


def test_twenty_thousand_episodes_open_without_their_data(tmp_path: Path) -> None:
    count, camera = 20_000, "observation.images.front"
    write_info(tmp_path, "v3.0", features=features("video"), total_episodes=count)
    write_table(tmp_path / "meta/tasks.parquet", pa.table({"task_index": range(2), "task": list(TASKS.values())}))
    numbers = np.arange(count)
    columns = {
        "episode_index": numbers,
        "tasks": pa.array([[text] for text in TASKS.values()] * (count // 2)),
        "length": 100 + numbers % 7,
        "data/chunk_index": numbers // 10_000,
        "data/file_index": numbers // 100 % 100,
        "dataset_from_index": np.cumsum(100 + numbers % 7) - (100 + numbers % 7),
        f"videos/{camera}/chunk_index": numbers // 10_000,
        f"videos/{camera}/file_index": numbers // 100 % 100,
        f"videos/{camera}/from_timestamp": numbers % 100 * 5.0,
    }
    table = pa.table(columns)
    for part in range(2):
        half = table.slice(part * count // 2, count // 2)
        write_table(tmp_path / f"meta/episodes/chunk-000/file-{part:03d}.parquet", half)
    tracemalloc.start()
    dataset = opened(tmp_path, COLUMNS.model_copy(update={"views": {"front": camera}}))
    listed = dataset.episodes()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 150 * count, "a Python object per episode would take more"
    assert listed["length"].to_numpy().tolist() == columns["length"].tolist()
    assert listed["instruction"].to_pylist() == list(TASKS.values()) * (count // 2)
    assert dataset.episode_files(12_345) == [
        Path("data/chunk-001/file-023.parquet"),
        Path(f"videos/{camera}/chunk-001/file-023.mp4"),
    ]
    assert dataset._span(12_345).start == sum(100 + number % 7 for number in range(12_300, 12_345))
