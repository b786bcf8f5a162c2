"""Stepwise Parquet: episodes by the flags of their rows, and what must not go unnoticed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.formats.miniature_lerobot import SIZE, Episode, episodes
from tests.formats.miniature_stepwise import COLUMNS, table, write_steps, write_stepwise
from vla import parquet
from vla.columns import Columns
from vla.errors import ConfigError, DataError
from vla.folder import FileStamp, Folder
from vla.formats import lerobot_v21
from vla.formats.stepwise import Stepwise, open_dataset, recognises, suggest_columns

SHARED = Path(__file__).parents[2] / "../shared/data"
FILE = "part-00000.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Episodes of 9 and 5 steps in one file, and of 6 in another."""
    write_stepwise(tmp_path)
    return tmp_path


def opened(root: Path, **changes: Any) -> Stepwise:
    return open_dataset(Folder(root), COLUMNS.model_copy(update=changes), name="test")


def rewrite(path: Path, **columns: Any) -> None:
    """Replace columns of a file, or take them out where they are None."""
    rows = pq.read_table(path)
    for name, values in columns.items():
        place = rows.column_names.index(name)
        rows = rows.remove_column(place)
        if values is not None:
            rows = rows.add_column(place, name, values if isinstance(values, pa.Array) else pa.array(values))
    pq.write_table(rows, path, row_group_size=4)


def flags(*true: int, count: int = 14) -> list[bool]:
    return [row in true for row in range(count)]


def write_rows(path: Path, lengths: Sequence[int], **columns: Any) -> None:
    """A file with flags, texts and numbers, and no images."""
    first = np.concatenate([np.arange(length) == 0 for length in lengths])
    texts = np.repeat([f"task {number}" for number in range(len(lengths))], lengths)
    state = pa.array(np.arange(2 * len(first), dtype=np.float32).reshape(-1, 2).tolist(), pa.list_(pa.float32()))
    pq.write_table(pa.table({"state": state, "is_first": first, "prompt": texts, **columns}), path)


PLAIN = Columns(state="state", actions="state", views={}, instruction="prompt", fps=10)


def test_episodes_are_numbered_through_the_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    made = episodes((2, 3, 4, 5))
    write_steps(tmp_path / "b/0.parquet", made[3:])
    write_steps(tmp_path / "a/1.parquet", made[1:3])
    write_steps(tmp_path / "a/0.parquet", made[:1])
    dataset = opened(tmp_path)
    assert dataset.episodes()["length"].to_pylist() == [2, 3, 4, 5]
    assert [dataset.episode_files(number) for number in range(4)] == [
        [Path("a/0.parquet")],
        [Path("a/1.parquet")],
        [Path("a/1.parquet")],
        [Path("b/0.parquet")],
    ]
    for number, episode in enumerate(made):
        np.testing.assert_array_equal(dataset.steps(number).actions_TA, episode.actions)


def test_all_files_describe_the_dataset_so_that_a_part_of_it_keeps_its_numbers(root: Path) -> None:
    assert opened(root).metadata_files() == [Path(FILE), Path("part-00001.parquet")]


def test_blocks_are_row_groups_within_the_episode(root: Path) -> None:
    dataset = opened(root)
    assert [dataset.block_starts(number).tolist() for number in range(3)] == [[0, 4, 8], [0, 3], [0, 4]]


def test_timestamps_follow_from_the_given_rate(root: Path) -> None:
    dataset = opened(root, fps=4)
    assert dataset.schema.fps == 4
    assert dataset.steps(1).timestamp_T.tolist() == [0, 0.25, 0.5, 0.75, 1.0]


def test_nothing_is_supervised_after_a_terminal_step_and_cut_off_episodes_are_told_apart(tmp_path: Path) -> None:
    terminal = [False, True, True, *[False] * 4, True]
    write_rows(tmp_path / FILE, (3, 4, 1), is_terminal=terminal)
    table = open_dataset(Folder(tmp_path), PLAIN, name="test").episodes()
    assert table["supervised"].to_pylist() == [2, None, 1]
    assert table["length"].to_pylist() == [3, 4, 1]


def test_without_terminal_flags_all_steps_are_supervised(tmp_path: Path) -> None:
    write_rows(tmp_path / FILE, (3, 4))
    assert open_dataset(Folder(tmp_path), PLAIN, name="test").episodes()["supervised"].to_pylist() == [3, 4]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=5), min_size=1, max_size=3),
    batch=st.integers(1, 9),
    data=st.data(),
)
def test_whatever_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[int]], batch: int, data: st.DataObject
) -> None:
    root, expected = tmp_path_factory.mktemp("dataset"), []
    for number, lengths in enumerate(files):
        terminal = [data.draw(st.lists(st.booleans(), min_size=length, max_size=length)) for length in lengths]
        write_rows(root / f"{number}.parquet", lengths, is_terminal=[flag for flags in terminal for flag in flags])
        expected += [
            (length, f"task {place}", flags.index(True) + 1 if any(flags) else None)
            for place, (length, flags) in enumerate(zip(lengths, terminal, strict=True))
        ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "BATCH_ROWS", batch)
        table = open_dataset(Folder(root), PLAIN, name="test").episodes()
    names = ("length", "instruction", "supervised")
    assert list(zip(*(table[name].to_pylist() for name in names), strict=True)) == expected


def test_a_view_is_the_column_of_its_name_or_of_its_long_name(root: Path) -> None:
    black = np.zeros((14, *SIZE, 3), dtype=np.uint8)
    rows = pq.read_table(root / FILE)
    pq.write_table(rows.append_column("image_1_bytes", rows["image_1"].take(pa.array([0] * 14))), root / FILE)
    pq.write_table(
        pq.read_table(root / "part-00001.parquet").append_column("image_1_bytes", pa.nulls(6, pa.binary())),
        root / "part-00001.parquet",
    )
    dataset = opened(root, views={"short": "image_1", "long": "image_1_bytes", "other": "image_2"})
    short, long = dataset.images(1, "short"), dataset.images(1, "long")
    assert short.shape == long.shape == (5, *SIZE, 3)
    assert not np.array_equal(short, long)
    assert not np.array_equal(dataset.images(1, "other"), black[:5])


def test_only_the_rows_between_the_wanted_ones_are_decoded(root: Path) -> None:
    made = write_stepwise(root)
    rows = pq.read_table(root / FILE)
    spoilt = [image if row == 3 else b"no image" for row, image in enumerate(rows["image_1"].to_pylist())]
    spoilt[0] = rows["image_1"][0].as_py()
    rewrite(root / FILE, image_1=pa.array(spoilt))
    dataset = opened(root)
    np.testing.assert_array_equal(dataset.images(0, "front", np.array([3, 0, 3])), made[0].images["front"][[3, 0, 3]])
    with pytest.raises(DataError, match=r"part-00000\.parquet: episode 0, image_1, step 4: expected an image file"):
        dataset.images(0, "front", np.array([3, 4]))
    assert dataset.images(0, "front", np.zeros(0, dtype=np.int64)).shape == (0, *SIZE, 3)


def test_steps_outside_the_episode_are_not_another_episodes(root: Path) -> None:
    for steps in ([5], [-1]):
        with pytest.raises(IndexError, match="episode 1 has 5 steps"):
            opened(root).images(1, "front", np.array(steps))


def test_numbers_may_lie_in_columns_of_their_own(tmp_path: Path) -> None:
    write_rows(tmp_path / FILE, (2, 3), gripper=pa.array(range(5), pa.float64()))
    columns = PLAIN.model_copy(update={"state": ("state[1:2]", "gripper"), "actions": "gripper"})
    dataset = open_dataset(Folder(tmp_path), columns, name="test")
    assert dataset.schema.state_names == ("state_1", "gripper")
    assert dataset.schema.action_names == ("gripper",)
    np.testing.assert_array_equal(dataset.steps(1).state_TS, [[5, 2], [7, 3], [9, 4]])


def without(*keys: str) -> Callable[[Path], None]:
    return lambda path: rewrite(path, **dict.fromkeys(keys))


def with_values(**columns: Any) -> Callable[[Path], None]:
    return lambda path: rewrite(path, **columns)


DEFECTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no flags": (without("is_first"), r"expected the column 'is_first' .*found action, image_1, .* Did you mean"),
    "flags that are numbers": (with_values(is_first=[1] * 14), "is_first: expected bool, found int64"),
    "a missing flag": (
        with_values(is_first=pa.array([True] * 3 + [None] + [False] * 10)),
        "is_first: expected true or false in every row, found neither in row 3",
    ),
    "the rest of an episode of another file": (
        with_values(is_first=flags(9), is_last=flags(8, 13)),
        r"expected an episode to begin with the file \(is_first in row 0\)",
    ),
    "no episode at all": (with_values(is_first=flags(), is_last=flags()), "expected an episode to begin with the file"),
    "an episode that goes on in another file": (
        with_values(is_last=flags(8)),
        r"expected an episode to end with the file \(is_last in row 13\)",
    ),
    "an end within an episode": (with_values(is_last=flags(4, 8, 13)), "expected is_last .* found otherwise in row 4"),
    "an episode without end": (with_values(is_last=flags(13)), "expected is_last .* found otherwise in row 8"),
    "an instruction that changes": (
        with_values(prompt=["a"] * 6 + ["b"] * 8),
        "prompt: expected one instruction .* found another one in row 6",
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
@pytest.mark.parametrize("batch", [4, 1000])
def test_contradictions_are_named_with_file_and_row(
    root: Path, name: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", batch)
    spoil, message = DEFECTS[name]
    spoil(root / FILE)
    with pytest.raises(DataError, match=rf"part-00000\.parquet: {message}"):
        opened(root)


def test_an_instruction_that_changes_between_batches_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", 2)
    write_rows(tmp_path / FILE, (4,))
    rewrite(tmp_path / FILE, prompt=["a", "a", "b", "b"])
    with pytest.raises(DataError, match="found another one in row 2"):
        open_dataset(Folder(tmp_path), PLAIN, name="test")


def test_a_missing_instruction_is_empty(root: Path) -> None:
    rewrite(root / FILE, prompt=pa.array([None] * 9 + ["b"] * 5, pa.string()))
    assert opened(root).episodes()["instruction"].to_pylist()[:2] == ["", "b"]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string()])
def test_texts_of_any_size_are_instructions(root: Path, kind: pa.DataType) -> None:
    for path in root.glob("*.parquet"):
        rewrite(path, prompt=pq.read_table(path)["prompt"].combine_chunks().cast(kind))
    assert opened(root).episodes()["instruction"].to_pylist() == [
        "open the drawer",
        "close the faucet",
        "open the drawer",
    ]


def test_what_the_format_does_not_record_has_to_be_given(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.columns: expected fps, the steps per second, .* found fps None"):
        opened(root, fps=None)
    with pytest.raises(DataError, match=r"data\.columns\.instruction: expected a column of texts, which are prompt"):
        opened(root, instruction=None)
    with pytest.raises(DataError, match=r"which are prompt, found state"):
        opened(root, instruction="state")
    with pytest.raises(ConfigError, match=r"no depth, .* found .*depth \{'front': 'depth'\}"):
        opened(root, depth={"front": "depth"})
    with pytest.raises(DataError, match="expected a view with depth, found 'front'"):
        opened(root).depth(0, "front")


def test_columns_of_the_wrong_kind_are_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"part-00000\.parquet: state: expected encoded images, .* found list<"):
        opened(root, views={"front": "state"})
    with pytest.raises(DataError, match=r"part-00000\.parquet: episode 0, prompt: expected numbers, found string"):
        opened(root, actions="prompt")


def test_a_column_that_another_file_lacks_is_named_with_that_file(root: Path) -> None:
    rewrite(root / "part-00001.parquet", is_last=None)
    with pytest.raises(DataError, match=r"part-00001\.parquet: expected the columns is_first, is_last, .* no is_last"):
        opened(root)


def test_a_folder_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected files \*\.parquet, found none"):
        opened(tmp_path)
    made = episodes((2,))
    pq.write_table(table(made[0]).slice(0, 0), tmp_path / FILE)
    with pytest.raises(DataError, match="expected rows, found 1 empty files"):
        opened(tmp_path)
    write_steps(tmp_path / "part-00001.parquet", made)
    np.testing.assert_array_equal(opened(tmp_path).steps(0).state_TS, made[0].state)


def test_a_file_that_the_manifest_lists_and_that_is_gone_is_an_error(root: Path) -> None:
    listed = {name: FileStamp((root / name).stat().st_size, None) for name in (FILE, "part-00001.parquet")}
    (root / "part-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"part-00001\.parquet: expected a file, found none"):
        open_dataset(Folder(root, listed), COLUMNS, name="test")


def test_flags_are_read_without_the_images(root: Path) -> None:
    path = root / FILE
    chunks = [pq.ParquetFile(path).metadata.row_group(group).column(0) for group in range(1, 4)]
    data = bytearray(path.read_bytes())
    for chunk in chunks:
        size = chunk.total_compressed_size
        data[chunk.dictionary_page_offset : chunk.dictionary_page_offset + size] = bytes(size)
    path.write_bytes(data)
    dataset = opened(root)
    assert dataset.episodes()["length"].to_pylist() == [9, 5, 6]
    assert len(dataset.images(0, "front", np.arange(4))) == 4
    with pytest.raises(DataError, match=r"Episode 0: .*part-00000\.parquet: expected a complete Parquet file"):
        dataset.images(0, "front")


def test_other_folders_are_not_recognised(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert recognises(root)
    other = tmp_path_factory.mktemp("other")
    pq.write_table(pa.table({"is_first": [1], "prompt": ["a"]}), other / "a.parquet")
    assert not recognises(other)
    (root / "meta").mkdir()
    (root / "meta/info.json").write_text(json.dumps({}))
    assert not recognises(root)


def test_suggestions_follow_the_names_and_kinds_of_the_columns(root: Path) -> None:
    columns = suggest_columns(root)
    assert (columns.state, columns.actions, columns.instruction) == ("state", "action", "prompt")
    assert columns.views == {"image_1": "image_1", "image_2": "image_2"}


def as_written(dataset: Stepwise, number: int, made: Episode) -> None:
    steps = dataset.steps(number)
    np.testing.assert_array_equal(steps.state_TS, made.state)
    np.testing.assert_array_equal(steps.actions_TA, made.actions)
    for view, images in made.images.items():
        np.testing.assert_array_equal(dataset.images(number, view), images)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_row_groups_of_any_size_are_read_and_streamed(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "COLUMN_BYTES", 500)
    monkeypatch.setattr(parquet, "BUFFER_BYTES", 700)
    made = [replace(episode, number=number) for number, episode in enumerate(episodes((4, 9, 3)))]
    write_steps(tmp_path / FILE, made, row_group_size=rows)
    dataset = opened(tmp_path)
    for episode in (*made, *reversed(made)):
        as_written(dataset, episode.number, episode)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference datasets are not on this machine")
def test_the_recorded_folder_holds_the_same_steps_as_its_lerobot_twin() -> None:
    views = {"over": "image_1", "side": "image_2"}
    stepwise = open_dataset(
        Folder(SHARED / "bridge_stepwise"), COLUMNS.model_copy(update={"views": views, "fps": 5}), name="a"
    )
    cameras = {view: f"observation.images.image_{number}" for number, view in enumerate(views)}
    twin = lerobot_v21.open_dataset(
        Folder(SHARED / "bridge_v21_images"),
        Columns(state="observation.state", actions="action", views=cameras),
        name="b",
    )
    ours, theirs = stepwise.episodes(), twin.episodes()
    assert ours["length"].to_pylist() == theirs["length"].to_pylist() == [10] * 25
    assert ours["instruction"].to_pylist() == theirs["instruction"].to_pylist()
    for number in range(25):
        one, other = stepwise.steps(number), twin.steps(number)
        np.testing.assert_array_equal(one.state_TS, other.state_TS)
        np.testing.assert_array_equal(one.actions_TA, other.actions_TA)
        np.testing.assert_allclose(one.timestamp_T, other.timestamp_T, atol=1e-6)
        for view in views:
            np.testing.assert_array_equal(stepwise.images(number, view), twin.images(number, view))
