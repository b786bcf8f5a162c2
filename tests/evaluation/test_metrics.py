import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla.errors import DataError
from vla.evaluation.metrics import ErrorSums, error_ratio, total, wilson

# Two chunks of two steps and one dimension; the second step of the second chunk is past the episode end.
ERROR = np.array([[[1.0], [3.0]], [[2.0], [100.0]]], dtype=np.float32)
WEIGHT = np.array([[1.0, 1.0], [1.0, 0.0]], dtype=np.float32)


def test_overall_errors_are_the_weighted_sums_over_the_sum_of_weights():
    sums = ErrorSums.of(ERROR, WEIGHT)
    assert sums.mae == pytest.approx((1 + 3 + 2) / 3)
    assert sums.mse == pytest.approx((1 + 9 + 4) / 3)


def test_a_step_past_the_episode_end_counts_nothing():
    changed = ERROR.copy()
    changed[1, 1] = -7
    np.testing.assert_equal(ErrorSums.of(changed, WEIGHT).square_HA, ErrorSums.of(ERROR, WEIGHT).square_HA)


def test_each_horizon_step_has_its_own_denominator():
    rows = ErrorSums.of(ERROR, WEIGHT).per_horizon_step()
    assert rows == [{"step": 0, "mae": 1.5, "mse": 2.5}, {"step": 1, "mae": 3.0, "mse": 9.0}]


def test_a_horizon_step_that_no_episode_reaches_is_left_out():
    weight = np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    assert [row["step"] for row in ErrorSums.of(ERROR, weight).per_horizon_step()] == [0]


def test_each_dimension_is_averaged_over_all_steps():
    error = np.array([[[1.0, -2.0], [3.0, 0.0]]], dtype=np.float32)
    rows = ErrorSums.of(error, np.ones((1, 2), np.float32)).per_dimension()
    assert rows == [{"mae": 2.0, "mse": 5.0}, {"mae": 1.0, "mse": 2.0}]


def test_the_total_of_tasks_is_not_the_mean_of_their_means():
    short = ErrorSums.of(np.full((1, 1, 1), 9.0, np.float32), np.ones((1, 1), np.float32))
    long = ErrorSums.of(np.full((2, 1, 1), 0.0, np.float32), np.ones((2, 1), np.float32))
    assert total({"short": short, "long": long}).mae == pytest.approx(3.0)


shapes = hnp.array_shapes(min_dims=3, max_dims=3, max_side=4)
finite = st.floats(-100, 100, width=32)


@given(shapes.flatmap(lambda shape: st.tuples(hnp.arrays(np.float32, shape, elements=finite), st.randoms())))
def test_the_sums_equal_a_plain_loop(drawn):
    error, random = drawn
    weight = np.array([[random.choice([0.0, 0.5, 1.0]) for _ in range(error.shape[1])] for _ in error], np.float32)
    sums = ErrorSums.of(error, weight)
    for h in range(error.shape[1]):
        for a in range(error.shape[2]):
            pairs = [(float(error[n, h, a]), float(weight[n, h])) for n in range(len(error))]
            assert sums.square_HA[h, a] == pytest.approx(sum(e * e * w for e, w in pairs))
            assert sums.absolute_HA[h, a] == pytest.approx(sum(abs(e) * w for e, w in pairs))
            assert sums.weight_HA[h, a] == pytest.approx(sum(w for _, w in pairs))


@given(hnp.arrays(np.float32, (5, 3, 2), elements=finite), st.integers(0, 5))
def test_any_split_into_batches_gives_the_same_sums(error, cut):
    weight = np.ones((5, 3), np.float32)
    parts = ErrorSums.of(error[:cut], weight[:cut]) + ErrorSums.of(error[cut:], weight[cut:])
    np.testing.assert_allclose(parts.square_HA, ErrorSums.of(error, weight).square_HA, rtol=1e-12, atol=1e-12)


def test_the_error_ratio_weighs_dimensions_by_their_scale():
    one = np.ones((1, 1), np.float32)
    model = ErrorSums.of(np.array([[[1.0, 10.0]]], np.float32), one)
    baseline = ErrorSums.of(np.array([[[2.0, 40.0]]], np.float32), one)
    # Scaled errors: model 1 and 1, baseline 2 and 4.
    assert error_ratio(model, baseline, scale_A=np.array([1.0, 10.0]), kept_A=np.array([True, True])) == 2 / 6


def test_a_constant_dimension_is_no_part_of_the_error_ratio():
    one = np.ones((1, 1), np.float32)
    model = ErrorSums.of(np.array([[[1.0, 5.0]]], np.float32), one)
    baseline = ErrorSums.of(np.array([[[4.0, 0.0]]], np.float32), one)
    assert error_ratio(model, baseline, scale_A=np.array([2.0, 0.0]), kept_A=np.array([True, False])) == 0.25


def test_predicting_the_baseline_gives_a_ratio_of_one():
    sums = ErrorSums.of(ERROR, WEIGHT)
    assert error_ratio(sums, sums, scale_A=np.array([3.0]), kept_A=np.array([True])) == 1.0


def test_a_ratio_without_a_varying_dimension_is_refused():
    sums = ErrorSums.of(ERROR, WEIGHT)
    with pytest.raises(DataError, match="varies in the train split"):
        error_ratio(sums, sums, scale_A=np.array([0.0]), kept_A=np.array([False]))


def test_a_ratio_to_a_perfect_baseline_is_refused():
    sums = ErrorSums.of(ERROR, WEIGHT)
    perfect = ErrorSums.of(np.zeros_like(ERROR), WEIGHT)
    with pytest.raises(DataError, match="ratio is undefined"):
        error_ratio(sums, perfect, scale_A=np.array([1.0]), kept_A=np.array([True]))


def test_wilson_gives_the_published_intervals():
    # Brown, Cai and DasGupta 2001 describe the interval; 0 of 20 and 20 of 20 are z^2 / (n + z^2) from the edge.
    edge = 1.959963984540054**2 / (20 + 1.959963984540054**2)
    assert wilson(0, 20) == pytest.approx((0.0, edge))
    assert wilson(20, 20) == pytest.approx((1 - edge, 1.0))
    assert wilson(10, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_and_stays_inside_zero_and_one(drawn):
    successes, trials = drawn
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1


def test_wilson_of_no_trials_is_refused():
    with pytest.raises(ValueError, match="trials > 0"):
        wilson(0, 0)
