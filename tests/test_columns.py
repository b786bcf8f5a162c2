"""The feature map: what the notation accepts, and that it takes exactly what it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.columns import Columns, Part, Vector, short_names
from vla.errors import ConfigError

NAMES = st.text(st.characters(exclude_characters="[]()", exclude_categories=["Z", "C"]), min_size=1)
WIDTH = 6


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("observation.state", Part("observation.state", None, None, False)),
        ("observation.state[0:7]", Part("observation.state", 0, 7, False)),
        ("sum(observation.state[193:195])", Part("observation.state", 193, 195, True)),
        ("sum(gripper)", Part("gripper", None, None, True)),
        ("  action[2:3] ", Part("action", 2, 3, False)),
        ("joint angles", Part("joint angles", None, None, False)),
        ("annotation.human/état-1", Part("annotation.human/état-1", None, None, False)),
        ("summary", Part("summary", None, None, False)),
    ],
)
def test_the_three_forms_are_understood(text: str, part: Part) -> None:
    assert Part.parse(text) == part


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[0:2]",
        "sum()",
        "sum( [0:2])",
        "a[3]",
        "a[:3]",
        "a[3:]",
        "a[3:3]",
        "a[4:3]",
        "a[-1:3]",
        "a[0:2][0:1]",
        "a[b[0:2]]",
        "sum(sum(a[0:2]))",
        "sum(a[0:2]",
        "a[0:2])",
        "sum(a)[0:2]",
        "mean(a[0:2])",
        "a[0:2] + b",
        "a[0:2]\nb",
        "a [0:2]",
    ],
)
def test_everything_else_is_refused_with_the_three_forms(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected COLUMN, COLUMN\[FIRST:END\] or sum\(COLUMN\[FIRST:END\]\), found"):
        Part.parse(text)


@given(name=NAMES, start=st.integers(0, 99), count=st.integers(1, 99), is_sum=st.booleans())
def test_any_name_without_brackets_is_a_column(name: str, start: int, count: int, is_sum: bool) -> None:
    text = f"{name}[{start}:{start + count}]"
    assert Part.parse(f"sum({text})" if is_sum else text) == Part(name, start, start + count, is_sum)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    column = draw(st.sampled_from(["a", "b"]))
    start = draw(st.none() | st.integers(0, WIDTH - 1))
    stop = None if start is None else draw(st.integers(start + 1, WIDTH))
    return Part(column, start, stop, draw(st.booleans()))


@given(chosen=st.lists(parts(), min_size=1, max_size=4))
def test_a_vector_is_its_parts_side_by_side(chosen: list[Part]) -> None:
    rng = np.random.default_rng(len(chosen))
    columns = {name: rng.integers(-9, 9, (5, WIDTH)).astype(np.float32) for name in "ab"}
    expected = [
        values.sum(axis=1, keepdims=True) if part.is_sum else values
        for part in chosen
        for values in [columns[part.column][:, part.start : part.stop]]
    ]
    vector = Vector(tuple(chosen))
    assembled = vector.assemble(columns)
    np.testing.assert_array_equal(assembled, np.concatenate(expected, axis=1))
    assert assembled.dtype == np.float32
    assert assembled.flags.c_contiguous
    assert len(vector.names(lambda column: [f"{column}{i}" for i in range(WIDTH)])) == assembled.shape[1]


def test_a_vector_reads_each_column_once_and_in_order() -> None:
    assert Vector.parse(["b[0:1]", "a", "b[2:3]"]).columns == ("b", "a")


def test_only_a_plain_column_is_a_whole_column() -> None:
    assert Vector.parse("a").whole_column == "a"
    assert Vector.parse(["a"]).whole_column == "a"
    for spec in ("a[0:2]", "sum(a)", ["a", "b"]):
        assert Vector.parse(spec).whole_column is None


def test_names_say_where_a_dimension_comes_from() -> None:
    names = Vector.parse(["a[1:3]", "sum(a[0:2])"]).names(lambda column: ["x", "y", "z"])
    assert names == ("y", "z", "sum(x+y)")


def test_a_range_beyond_the_column_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a range within the 3 dimensions of 'a', found \[1:4\]"):
        Vector.parse("a[1:4]").names(lambda column: ["x", "y", "z"])


def test_no_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at least one column"):
        Vector.parse([])


@pytest.mark.parametrize("key", ["state", "actions"])
def test_a_wrong_part_in_the_parameters_is_named_with_its_place(key: str) -> None:
    values = {"state": "a", "actions": "b", "views": {}, key: ["a", "a[3:2]"]}
    with pytest.raises(ConfigError, match=rf"test: {key}: .*expected COLUMN.*'a\[3:2\]'"):
        Columns.parse(values, where="test")


def test_the_settings_survive_a_round_trip() -> None:
    columns = Columns(state=("a[0:1]", "sum(b)"), actions="c", views={"front": "i"}, depth={"front": "d"}, fps=5)
    assert Columns.parse(columns.plain(), where="test") == columns


@pytest.mark.parametrize(
    ("views", "said"),
    [
        ({"a": "x", "b": "y", "c": "x"}, r"a column of its own for every view, found 'x' for \['a', 'c'\]"),
        ({"arm/left": "x"}, r"names of views without '/', found 'arm/left'"),
        ({"": "x"}, r"names of views without '/', found ''"),
    ],
)
@pytest.mark.parametrize("key", ["views", "depth"])
def test_views_have_names_and_columns_of_their_own(key: str, views: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"test: {key}: expected {said}"):
        Columns.parse({"state": "a", "actions": "b", "views": {}, key: views}, where="test")


def test_a_view_and_its_depth_may_have_one_name() -> None:
    Columns.parse({"state": "a", "actions": "b", "views": {"x": "i"}, "depth": {"x": "d"}}, where="test")


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (["observation.images.top", "observation.images.wrist"], ["top", "wrist"]),
        (["left/camera", "right/camera"], ["left_camera", "right_camera"]),
        (["a.b", "a/b"], ["view_0", "view_1"]),
        (["."], ["view_0"]),
        ([], []),
    ],
)
def test_views_are_named_by_the_last_parts_that_tell_their_columns_apart(columns: list[str], names: list[str]) -> None:
    assert short_names(columns) == names
    Columns.parse({"state": "a", "actions": "b", "views": dict(zip(names, columns, strict=True))}, where="test")
