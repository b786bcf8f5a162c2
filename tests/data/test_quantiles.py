import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla.data import quantiles
from vla.data.quantiles import OrderStatistics, interpolate, ranks_around

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TIES = st.sampled_from([-1.0, -0.0, 0.0, 1e-45, -1e-45, 0.5, 1.0, 3.4028235e38, -3.4028235e38])
VALUES = hnp.arrays(np.float32, st.integers(1, 30), elements=FLOATS | TIES)


def at_ranks(values: np.ndarray, weights: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    ordered = OrderStatistics()
    for part, weight in zip(np.array_split(values, 3), np.array_split(weights, 3), strict=True):
        ordered.count_upper(part, weight)
    ordered.choose(ranks)
    for part, weight in zip(np.array_split(values, 2), np.array_split(weights, 2), strict=True):
        ordered.count_lower(part, weight)
    return ordered.values()


@given(VALUES)
def test_every_rank_gives_the_value_that_sorting_gives(values):
    found = at_ranks(values, np.ones(len(values)), np.arange(len(values)))
    assert np.array_equal(found, np.sort(values))


@given(VALUES, st.data())
def test_a_row_counts_as_many_equal_rows_as_it_weighs(values, data):
    weights = data.draw(hnp.arrays(np.int64, len(values), elements=st.integers(0, 4)).filter(lambda w: w.any()))
    repeated = np.repeat(values, weights)
    found = at_ranks(values, weights.astype(np.float64), np.arange(len(repeated)))
    assert np.array_equal(found, np.sort(repeated))


def test_weights_beyond_any_number_of_rows_that_could_be_repeated_are_counted_exactly():
    values, many = np.array([3.0, -1.0, 2.0], dtype=np.float32), 10**12
    # In order: -1 counts many, 2 counts many + 1, 3 counts once.
    ranks = np.array([0, many - 1, many, 2 * many, 2 * many + 1])
    assert at_ranks(values, np.array([1, many, many + 1], dtype=np.float64), ranks).tolist() == [-1, -1, 2, 2, 3]


@given(VALUES, st.integers(1, 8))
def test_ranks_do_not_depend_on_how_many_rows_wait_to_be_counted(values, together):
    ranks, expected = np.arange(len(values)), np.sort(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantiles._Counts, "TOGETHER", together)
        assert np.array_equal(at_ranks(values, np.ones(len(values)), ranks), expected)


def test_a_million_rows_are_placed_as_sorting_places_them():
    values = np.random.default_rng(0).normal(size=1 << 20).astype(np.float32)
    ranks = np.array([0, 1, 65535, 65536, 1 << 19, (1 << 20) - 1])
    assert np.array_equal(at_ranks(values, np.ones(len(values)), ranks), np.sort(values)[ranks])


@given(VALUES, st.floats(0, 1))
def test_interpolation_between_ranks_equals_numpys_bit_for_bit(values, probability):
    below, above, fraction = ranks_around(np.array([probability]), len(values))
    ordered = np.sort(values).astype(np.float64)
    found = interpolate(ordered[below], ordered[above], fraction)
    assert np.array_equal(found, [np.quantile(ordered, probability)])
