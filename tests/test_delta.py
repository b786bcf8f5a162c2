import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla.config import Config
from vla.delta import Delta, DeltaRange, DeltaRanges
from vla.errors import ConfigError


class Settings(Config):
    delta_actions: DeltaRanges = ()


def parse(*ranges) -> tuple[DeltaRange, ...]:
    return Settings.parse({"delta_actions": list(ranges)}, where="test").delta_actions


def make(*ranges, state_dim=4, action_dim=3) -> Delta:
    return Delta.make(parse(*ranges), state_dim=state_dim, action_dim=action_dim)


def test_the_chosen_dimensions_of_all_steps_become_relative_to_the_one_state():
    delta = make({"actions": [1, 3], "state": [2, 4]})
    state = np.array([1, 2, 3, 4], dtype=np.float32)
    chunk = np.array([[10, 20, 30], [11, 21, 31]], dtype=np.float32)
    assert delta.take(chunk, state).tolist() == [[10, 17, 26], [11, 18, 27]]
    assert delta.undo(delta.take(chunk, state), state).tolist() == chunk.tolist()
    assert delta.differences(chunk, state).tolist() == [[17, 26], [18, 27]]


def test_ranges_name_the_state_dimension_of_each_action_dimension():
    delta = make({"actions": [2, 3], "state": [0, 1]}, {"actions": [0, 1], "state": [3, 4]})
    state = np.array([1, 2, 3, 4], dtype=np.float32)
    assert delta.take(np.zeros((1, 3), np.float32), state).tolist() == [[-4, 0, -1]]


NUMBERS = st.floats(-100, 100, width=32)


@given(
    chunks=hnp.arrays(np.float32, (2, 5, 3), elements=NUMBERS), states=hnp.arrays(np.float32, (2, 4), elements=NUMBERS)
)
def test_a_batch_is_taken_chunk_by_chunk_and_undone(chunks, states):
    delta = make({"actions": [0, 2], "state": [1, 3]})
    taken = delta.take(chunks, states)
    for chunk, state, expected in zip(chunks, states, taken, strict=True):
        assert np.array_equal(delta.take(chunk, state), expected)
    np.testing.assert_allclose(delta.undo(taken, states), chunks, atol=2e-5)
    assert np.array_equal(taken[..., 2], chunks[..., 2])


def test_without_ranges_nothing_changes():
    chunk = np.ones((2, 3), np.float32)
    assert len(make()) == 0
    assert np.array_equal(make().take(chunk, np.ones(4, np.float32)), chunk)


def test_arguments_are_left_as_they_are():
    delta, chunk = make({"actions": [0, 1], "state": [0, 1]}), np.ones((1, 3), np.float32)
    delta.take(chunk, np.ones(4, np.float32))
    delta.undo(chunk, np.ones(4, np.float32))
    assert chunk.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([{"actions": [0, 2], "state": [0, 1]}], r"as many action as state dimensions, at least one, found \[2, 1\]"),
        ([{"actions": [1, 1], "state": [1, 1]}], r"at least one, found \[0, 0\]"),
        ([{"actions": [-1, 1], "state": [0, 2]}], "greater than or equal to 0"),
        (
            [{"actions": [0, 2], "state": [0, 2]}, {"actions": [1, 3], "state": [0, 2]}],
            r"expected every action dimension in one range at most, found \[1\] in several",
        ),
    ],
)
def test_ranges_that_say_nothing_definite_are_refused(ranges, message):
    with pytest.raises(ConfigError, match=message):
        parse(*ranges)


def test_a_range_beyond_the_dimensions_is_refused():
    with pytest.raises(ConfigError, match=r"expected actions among the dimensions 0 to 2, found \[2, 4\]"):
        make({"actions": [2, 4], "state": [2, 4]})
    with pytest.raises(ConfigError, match=r"expected state among the dimensions 0 to 3, found \[4, 5\]"):
        make({"actions": [2, 3], "state": [4, 5]})
