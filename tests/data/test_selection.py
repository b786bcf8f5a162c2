"""Which episodes take part, and what is said about the others."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.data.selection import Selected, Selection, select
from vla.errors import ConfigError, DataError
from vla.formats import EPISODES

TEXTS = ("open", "close", "open", "open", "close", "wave")
IDS = (0, 1, 2, 10, 11, 12)


class Listing:
    """As much of a vla.formats.Dataset as a selection looks at: episode i lies in data/i and in a shared file."""

    def __init__(self, ids: tuple[int, ...] = IDS, texts: tuple[str, ...] = TEXTS) -> None:
        self.ids, self.texts = ids, texts

    def episodes(self) -> pa.Table:
        lengths = [5] * len(self.ids)
        return pa.table([self.ids, lengths, self.texts, lengths], schema=EPISODES)

    def episode_files(self, episode_id: int) -> list[Path]:
        return [Path(f"data/{episode_id}"), Path("data/shared")]


def chosen(listed: set[str] | None = None, **settings: Any) -> Selected:
    return select(Selection(**settings), Listing(), listed=listed, where="here")  # type: ignore[arg-type]


def ids(selected: Selected) -> list[int]:
    found: list[int] = selected.table["episode_id"].to_pylist()
    return found


def test_everything_is_chosen_unless_something_is_said() -> None:
    selected = chosen()
    assert ids(selected) == list(IDS)
    assert selected.left_out == {}


def test_single_episodes_and_ranges_are_chosen_in_dataset_order() -> None:
    selected = chosen(episodes=(12, "0:2"))
    assert ids(selected) == [0, 1, 12]
    assert selected.left_out == {"not in data.select.episodes": 3}


def test_a_range_may_have_gaps_and_reach_beyond_the_dataset() -> None:
    assert ids(chosen(episodes=("2:99999999999999999999",))) == [2, 10, 11, 12]


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(1, 14)), min_size=1, max_size=3))
def test_ranges_choose_what_they_contain(ranges: list[tuple[int, int]]) -> None:
    found = [[i for i in IDS if first <= i < first + count] for first, count in ranges]
    settings = {"episodes": tuple(f"{first}:{first + count}" for first, count in ranges)}
    if all(found):
        assert ids(chosen(**settings)) == sorted({i for each in found for i in each})
    else:
        with pytest.raises(DataError, match=r"data\.select\.episodes: expected some of the ids"):
            chosen(**settings)


@pytest.mark.parametrize("item", [3, "3:10", "13:20"])
def test_an_id_or_a_range_without_episodes_is_an_error_with_the_ids_that_there_are(item: int | str) -> None:
    with pytest.raises(
        DataError, match=rf"here: data\.select\.episodes: expected some of the ids 0 to 2, 10 to 12, found {item}\."
    ):
        chosen(episodes=(0, item))


def test_of_many_scattered_ids_the_first_and_the_last_are_named() -> None:
    scattered = Listing(tuple(range(0, 40, 2)), ("open",) * 20)
    with pytest.raises(DataError, match=r"the ids 0, 2, 4, 6, 8, 10, 12, 14, \.\.\. up to 38, found 1\."):
        select(Selection(episodes=(1,)), scattered, where="here")  # type: ignore[arg-type]


@pytest.mark.parametrize("item", ["5", "a:b", "3:3", "5:3", ":4", "4:", "1:2:3", "-1:4", "²:³"])
def test_what_is_no_range_is_refused(item: str) -> None:
    with pytest.raises(ConfigError, match="expected episode ids or ranges such as 0:200"):
        Selection.parse({"episodes": [item]}, where="test")


def test_episodes_with_other_instructions_are_left_out() -> None:
    selected = chosen(instructions=("close", "wave"))
    assert ids(selected) == [1, 11, 12]
    assert selected.left_out == {"not in data.select.instructions": 3}


def test_an_instruction_that_does_not_exist_is_an_error_with_the_nearest() -> None:
    with pytest.raises(
        DataError, match=r"expected some of \['close', 'open', 'wave'\], found 'opne'\. Did you mean 'op"
    ):
        chosen(instructions=("opne",))


class Named(Listing):
    """Episodes whose tasks have short names, but for the last one."""

    def task_names(self) -> dict[int, str]:
        return {0: "opening", 1: "closing", 2: "opening", 10: "airing", 11: "closing"}


def of_tasks(*names: str, listing: Listing | None = None, **settings: Any) -> Selected:
    return select(Selection(tasks=names, **settings), listing or Named(), where="here")  # type: ignore[arg-type]


def test_tasks_are_chosen_by_their_short_names_beside_all_else() -> None:
    assert ids(of_tasks("closing")) == [1, 11]
    selected = of_tasks("opening", "airing", episodes=("0:11",), per_instruction=2)
    assert ids(selected) == [0, 2]
    assert selected.left_out == {
        "not in data.select.episodes": 2,
        "not in data.select.tasks": 1,
        "beyond data.select.per_instruction": 1,
    }


def test_a_task_that_does_not_exist_is_an_error_with_all_that_do() -> None:
    with pytest.raises(DataError) as caught:
        of_tasks("clsing", episodes=(0,))
    assert str(caught.value) == (
        "here: data.select.tasks: expected some of airing, closing, opening, found 'clsing'. Did you mean 'closing'?"
    )


def test_tasks_without_short_names_are_to_be_selected_by_their_texts() -> None:
    with pytest.raises(DataError, match=r"expected tasks that have short names, found none\. Name their texts in"):
        of_tasks("open", listing=Listing())


def test_the_first_episodes_of_each_instruction_are_chosen() -> None:
    selected = chosen(per_instruction=1)
    assert ids(selected) == [0, 1, 12]
    assert selected.left_out == {"beyond data.select.per_instruction": 3}


def test_the_first_episodes_are_counted_among_those_that_are_there() -> None:
    listed = {"data/shared", "data/2", "data/10", "data/11", "data/12"}
    selected = chosen(listed, present=True, per_instruction=1)
    assert ids(selected) == [2, 11, 12]
    assert selected.left_out == {"with missing files": 2, "beyond data.select.per_instruction": 1}


def test_missing_files_are_no_reason_unless_it_is_said() -> None:
    assert ids(chosen({"data/shared"})) == list(IDS)


def test_all_reasons_are_counted_in_order() -> None:
    selected = chosen({"data/shared", "data/0"}, episodes=("0:11",), instructions=("open",), present=True)
    assert ids(selected) == [0]
    assert list(selected.left_out.items()) == [
        ("not in data.select.episodes", 2),
        ("not in data.select.instructions", 1),
        ("with missing files", 2),
    ]


def test_nothing_left_is_an_error_with_the_reasons() -> None:
    with pytest.raises(DataError, match=r"found none of 6 \(6 with missing files\)\. Widen data\.select"):
        chosen(set(), present=True)


@pytest.mark.parametrize("settings", [{}, {"episodes": (0,)}, {"instructions": ("open",)}])
def test_an_empty_dataset_is_an_error(settings: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"found none of 0 \(the dataset has none\)"):
        select(Selection(**settings), Listing((), ()), where="here")  # type: ignore[arg-type]


def test_a_million_episodes_are_chosen_from_in_seconds() -> None:
    count = 1_000_000
    many = Listing(tuple(range(count)), ("open",) * count)
    settings = Selection(episodes=(*range(0, count, 50), "5:10"), instructions=("open",), per_instruction=10_000)
    assert len(select(settings, many, where="here").table) == 10_000  # type: ignore[arg-type]
