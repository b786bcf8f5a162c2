"""What the episodes of LeRobot v2 are about: a column that says it, or their only task."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.formats.files import change_feature, change_info, change_lines, rewrite
from tests.formats.miniature_lerobot import COLUMNS, TASKS, with_column, write_lerobot_v2
from vla.errors import DataError
from vla.folder import Folder
from vla.formats.lerobot_v21 import LeRobotV21, open_dataset, suggest_columns

DATA = "data/chunk-000/episode_000001.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_lerobot_v2(tmp_path, "v2.1", "image")
    return tmp_path


def opened(root: Path, **changes: Any) -> LeRobotV21:
    return open_dataset(Folder(root), COLUMNS.model_copy(update=changes), name="test")


def several(root: Path, tasks: list[str] | None = None) -> None:
    change_lines(root / "meta/episodes.jsonl", lambda line: {**line, "tasks": tasks or list(TASKS.values())})


def test_several_tasks_without_a_column_are_an_error_that_names_the_columns(root: Path) -> None:
    with_column(root, "said", lambda number: "x", "string")
    change_feature(root, "next.done", dtype="int64", shape=[1])
    several(root)
    with pytest.raises(
        DataError,
        match=r"jsonl: episode 0: expected one task, found \['open the drawer', 'close the faucet'\].*"
        r"data\.columns\.instruction \(the dataset has task_index, said\)",
    ):
        opened(root).episodes()


def test_a_column_of_numbers_says_which_task_holds(root: Path) -> None:
    with_column(root, "annotation", lambda number: [1, 1, 0][number])
    several(root)
    texts = opened(root, instruction="annotation").episodes()["instruction"].to_pylist()
    assert texts == ["close the faucet", "close the faucet", "open the drawer"]


def test_data_files_are_not_opened_where_the_metadata_suffice(root: Path) -> None:
    for path in (root / "data").rglob("*.parquet"):
        path.write_bytes(b"not opened")
    texts = opened(root, instruction="task_index").episodes()["instruction"].to_pylist()
    assert texts == ["open the drawer", "close the faucet", "open the drawer"]


def test_a_column_of_text_is_the_instruction(root: Path) -> None:
    with_column(root, "said", lambda number: f"do {number}" if number else None, "string")
    assert opened(root, instruction="said").episodes()["instruction"].to_pylist() == ["", "do 1", "do 2"]


def test_a_column_that_only_the_files_know_can_be_named(root: Path) -> None:
    with_column(root, "said", lambda number: f"do {number}", "string")
    change_info(
        root,
        features={**json.loads((root / "meta/info.json").read_text())["features"], "said": {"dtype": "object"}},
    )
    assert opened(root, instruction="said").episodes()["instruction"].to_pylist() == ["do 0", "do 1", "do 2"]


@pytest.mark.parametrize("damage", ["missing", "cut", "short"])
def test_an_episode_whose_file_is_missing_or_damaged_has_no_text(root: Path, damage: str) -> None:
    with_column(root, "said", lambda number: f"do {number}", "string")
    if damage == "missing":
        (root / DATA).unlink()
    elif damage == "cut":
        (root / DATA).write_bytes((root / DATA).read_bytes()[:-20])
    else:
        rewrite(root / DATA, lambda table: table.slice(0, 4))
    assert opened(root, instruction="said").episodes()["instruction"].to_pylist() == ["do 0", "", "do 2"]


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        (
            lambda number: 7,
            "int64",
            r"000000\.parquet: episode 0, annotation: expected the index of one of 2 tasks, found 7",
        ),
        (
            lambda number: None if number else 0,
            "int64",
            r"episode 1, annotation: expected the index of one of 2 tasks, found None",
        ),
        (lambda number: 0.5, "float32", r"expected text or the index of a task, found double"),
    ],
)
def test_a_column_that_says_something_else_is_an_error(root: Path, values: Any, dtype: str, message: str) -> None:
    with_column(root, "annotation", values, dtype)
    if message.startswith("episode 1,"):
        rewrite(
            root / DATA,
            lambda table: table.set_column(len(table.schema) - 1, "annotation", pa.array([None] * 5, pa.int64())),
        )
    several(root)
    with pytest.raises(DataError, match=message):
        opened(root, instruction="annotation").episodes()


def test_a_column_that_does_not_exist_is_an_error(root: Path) -> None:
    with pytest.raises(DataError, match=r"Episode 0: .*000000\.parquet: expected the column 'said', found"):
        opened(root, instruction="said").episodes()


def test_an_episode_without_a_task_has_an_empty_instruction(root: Path) -> None:
    change_lines(root / "meta/episodes.jsonl", lambda line: {key: line[key] for key in ("episode_index", "length")})
    assert opened(root).episodes()["instruction"].to_pylist() == ["", "", ""]


def test_a_single_text_may_stand_for_a_list(root: Path) -> None:
    change_lines(root / "meta/episodes.jsonl", lambda line: {**line, "tasks": "open the drawer"})
    assert set(opened(root).episodes()["instruction"].to_pylist()) == {"open the drawer"}


def test_a_task_that_the_table_of_tasks_lacks_is_an_error(root: Path) -> None:
    change_lines(
        root / "meta/episodes.jsonl",
        lambda line: {**line, "tasks": ["dance"] if line["length"] == 6 else line["tasks"]},
    )
    with pytest.raises(
        DataError, match=r"episodes\.jsonl: episode 2: expected tasks of meta/tasks\.jsonl, found 'dance'"
    ):
        opened(root)


def test_the_column_with_the_most_telling_name_is_suggested(root: Path) -> None:
    assert suggest_columns(root).instruction is None
    with_column(root, "annotation.human.validity", lambda number: 1)
    with_column(root, "annotation.human.task_description", lambda number: 0)
    several(root)
    assert suggest_columns(root).instruction == "annotation.human.task_description"
