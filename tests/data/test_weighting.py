import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from splits import a_table

from vla.data.weighting import chunk_counts, source_counts


def test_early_actions_stand_in_few_chunks_and_the_last_one_in_many():
    # Chunks from 0: 0 1 2, from 1: 1 2 3, from 2: 2 3 4, from 3: 3 4 4, from 4: 4 4 4.
    assert chunk_counts(5, 3).tolist() == [1, 2, 3, 3, 6]
    # From 0: 0 1 1 1, from 1: 1 1 1 1.
    assert chunk_counts(2, 4).tolist() == [1, 7]
    assert chunk_counts(1, 4).tolist() == [4]


@given(length=st.integers(1, 40), horizon=st.integers(1, 40))
def test_the_closed_form_counts_what_listing_all_chunks_counts(length, horizon):
    listed = np.minimum(np.arange(length)[:, None] + np.arange(horizon), length - 1)
    assert chunk_counts(length, horizon).tolist() == np.bincount(listed.ravel(), minlength=length).tolist()


def test_sources_without_weights_count_every_step_once():
    assert source_counts(a_table([4, 6], sources=["a", "b"]), {"a": None, "b": None}) == {"a": 1, "b": 1}


def test_steps_of_a_source_count_so_that_it_has_its_share():
    # 10 steps of a and 30 of b in equal shares: a step of a counts three times.
    table = a_table([4, 30, 6], sources=["a", "b", "a"])
    assert source_counts(table, {"a": 1.0, "b": 1.0}) == {"a": 3, "b": 1}
    assert source_counts(table, {"a": 1.0, "b": 9.0}) == {"a": 1, "b": 3}
    # 1 : 3 of 7 : 30 steps is 10 : 7 a step, in thousandths of the smaller.
    assert source_counts(a_table([7, 30], sources=["a", "b"]), {"a": 1.0, "b": 3.0}) == {"a": 1429, "b": 1000}


@given(
    steps=st.lists(st.integers(1, 10**6), min_size=2, max_size=5),
    weights=st.lists(st.floats(0.01, 100), min_size=5, max_size=5),
)
def test_shares_are_met_to_a_thousandth(steps, weights):
    names = [f"s{index}" for index in range(len(steps))]
    wanted = dict(zip(names, weights, strict=False))
    counts = source_counts(a_table(steps, sources=names), wanted)
    mass = np.array([counts[name] * count for name, count in zip(names, steps, strict=True)])
    expected = np.array([wanted[name] for name in names])
    np.testing.assert_allclose(mass / mass.sum(), expected / expected.sum(), rtol=1.1e-3)


def test_a_source_that_the_split_lacks_is_left_out():
    assert source_counts(a_table([5], sources=["a"]), {"a": 2.0, "b": 1.0}) == {"a": 1}
