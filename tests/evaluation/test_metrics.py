import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.action_errors import ActionScale, ErrorSums
from vla.errors import DataError
from vla.evaluation.metrics import error_ratio, total, wilson

# Two chunks of two steps and one dimension; the second step of the second chunk is past the episode end.
ERROR = np.array([[[1.0], [3.0]], [[2.0], [100.0]]], dtype=np.float32)
WEIGHT = np.array([[1.0, 1.0], [1.0, 0.0]], dtype=np.float32)


def scale(*std: float) -> ActionScale:
    """These units; a dimension with none does not vary."""
    return ActionScale(np.array(std), np.array(std) > 0)


def test_the_total_of_tasks_is_not_the_mean_of_their_means():
    short = ErrorSums.of(np.full((1, 1, 1), 9.0, np.float32), np.ones((1, 1), np.float32))
    long = ErrorSums.of(np.full((2, 1, 1), 0.0, np.float32), np.ones((2, 1), np.float32))
    assert total({"short": short, "long": long}).mae == pytest.approx(3.0)


def test_the_error_ratio_weighs_dimensions_by_their_scale():
    one = np.ones((1, 1), np.float32)
    model = ErrorSums.of(np.array([[[1.0, 10.0]]], np.float32), one)
    baseline = ErrorSums.of(np.array([[[2.0, 40.0]]], np.float32), one)
    # Scaled errors: model 1 and 1, baseline 2 and 4.
    assert error_ratio(model, baseline, scale(1.0, 10.0)) == 2 / 6


def test_a_constant_dimension_is_no_part_of_the_error_ratio():
    one = np.ones((1, 1), np.float32)
    model = ErrorSums.of(np.array([[[1.0, 5.0]]], np.float32), one)
    baseline = ErrorSums.of(np.array([[[4.0, 0.0]]], np.float32), one)
    assert error_ratio(model, baseline, scale(2.0, 0.0)) == 0.25


def test_predicting_the_baseline_gives_a_ratio_of_one():
    sums = ErrorSums.of(ERROR, WEIGHT)
    assert error_ratio(sums, sums, scale(3.0)) == 1.0


def test_a_ratio_to_a_perfect_baseline_is_refused():
    sums = ErrorSums.of(ERROR, WEIGHT)
    perfect = ErrorSums.of(np.zeros_like(ERROR), WEIGHT)
    with pytest.raises(DataError, match="ratio is undefined"):
        error_ratio(sums, perfect, scale(1.0))


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
