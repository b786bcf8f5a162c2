"""Statistics are exact: quantiles equal numpy's on the whole multiset, however the rows are cut into blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla.data import moments
from vla.data.moments import WeightedRows
from vla.errors import DataError
from vla.normalization import Statistics

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TIES = st.sampled_from([-1.0, -0.0, 0.0, 1e-45, 0.5, 1.0, 3.4028235e38, -3.4028235e38])
ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=FLOATS | TIES)
PROBABILITIES = [0.01, 0.5, 0.99]


def measure(values: np.ndarray, weights: np.ndarray | None = None, cuts: list[int] | None = None) -> Statistics:
    counted = np.ones(len(values), dtype=np.int64) if weights is None else weights
    places = sorted(cut % len(values) for cut in cuts or [])
    parts = zip(np.split(values, places), np.split(counted, places), strict=True)
    blocks = [("values", WeightedRows(*part)) for part in parts]
    return moments.measure(lambda: blocks, {"values": values.shape[1]})["values"]


def test_statistics_of_a_few_numbers_are_those_of_a_hand_calculation():
    stats = measure(np.array([[1.0], [2.0], [3.0], [6.0]], dtype=np.float32))
    assert stats.count == 4
    assert stats.mean.tolist() == [3.0]
    assert stats.std[0] == pytest.approx(np.sqrt(3.5))
    assert (stats.min[0], stats.max[0]) == (1.0, 6.0)
    # Positions 0.03, 1.5 and 2.97 of 0 to 3.
    assert stats.q01[0] == pytest.approx(1.03)
    assert stats.q50[0] == 2.5
    assert stats.q99[0] == pytest.approx(5.91)


@given(values=ROWS, cuts=st.lists(st.integers(0, 100), max_size=4), data=st.data())
def test_weighted_statistics_equal_numpys_of_the_repeated_rows(values, cuts, data):
    weights = data.draw(hnp.arrays(np.int64, len(values), elements=st.integers(0, 5)).filter(lambda w: w.any()))
    stats = measure(values, weights, cuts)
    repeated = np.repeat(values, weights, axis=0)
    expected = np.quantile(repeated.astype(np.float64), PROBABILITIES, axis=0)
    assert np.array_equal(np.stack([stats.q01, stats.q50, stats.q99]), expected)
    assert stats.count == len(repeated)
    scale = np.abs(values).max().astype(np.float64)
    np.testing.assert_allclose(stats.mean, repeated.mean(axis=0, dtype=np.float64), rtol=1e-13, atol=1e-14 * scale)
    np.testing.assert_allclose(stats.std, repeated.std(axis=0, dtype=np.float64), rtol=1e-12, atol=1e-14 * scale)


@given(values=ROWS, cuts=st.lists(st.integers(0, 100), max_size=4))
def test_extremes_are_those_of_all_rows(values, cuts):
    stats = measure(values, cuts=cuts)
    assert np.array_equal(stats.min, values.min(axis=0))
    assert np.array_equal(stats.max, values.max(axis=0))


def test_more_rows_than_a_block_holds_give_numpys_quantiles_of_all_of_them(monkeypatch):
    values = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    expected = measure(values, cuts=list(range(0, 1000, 7)))
    monkeypatch.setattr(moments, "BLOCK_ROWS", 64)
    stats = measure(values, cuts=list(range(0, 1000, 7)))
    assert stats.count == 1000
    for name in ("min", "max", "q01", "q50", "q99"):
        assert np.array_equal(getattr(stats, name), getattr(expected, name))
    np.testing.assert_allclose(stats.std, values.std(axis=0, dtype=np.float64), rtol=1e-14)


def test_quantities_are_kept_apart():
    one, two = np.zeros((3, 1), np.float32), np.ones((2, 2), np.float32)
    found = moments.measure(
        lambda: [("one", WeightedRows.once(one)), ("two", WeightedRows.once(two, 5)), ("one", WeightedRows.once(one))],
        {"one": 1, "two": 2},
    )
    assert (found["one"].count, found["one"].mean.tolist()) == (6, [0.0])
    assert (found["two"].count, found["two"].mean.tolist()) == (10, [1.0, 1.0])


def test_a_large_offset_costs_no_precision():
    values = (1e6 + np.arange(1000)[:, None] % 2).astype(np.float32)
    stats = measure(values)
    assert stats.mean[0] == 1e6 + 0.5
    assert stats.std[0] == 0.5


def test_a_negative_zero_is_written_as_zero():
    stats = measure(np.full((3, 1), -0.0, dtype=np.float32))
    assert not np.signbit([stats.min, stats.max, stats.q01, stats.q50, stats.q99, stats.mean]).any()


@pytest.mark.parametrize("rows", [[], [("values", WeightedRows.once(np.zeros((0, 2), np.float32)))]])
def test_no_rows_are_refused(rows):
    with pytest.raises(DataError, match="expected 1 to 2\\^53 rows of values, found 0"):
        moments.measure(lambda: rows, {"values": 2})
