import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla.action_errors import ActionScale, ErrorSums
from vla.errors import DataError
from vla.normalization import Statistics

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


def test_scaled_errors_are_in_units_of_each_dimension_that_varies():
    scale = ActionScale.of(Statistics(mean=np.zeros(3), std=np.array([2.0, 1e-9, 0.5])))
    assert scale.kept_A.tolist() == [True, False, True]
    sums = ErrorSums.of(np.array([[[1.0, 7.0, 1.0]]], np.float32), np.ones((1, 1), np.float32)).scaled(scale)
    assert sums.mae == (0.5 + 2.0) / 2
    assert sums.mse == (0.25 + 4.0) / 2


def test_actions_that_do_not_vary_have_no_scale():
    with pytest.raises(DataError, match="varies in the train split"):
        ActionScale.of(Statistics(mean=np.ones(2), std=np.zeros(2)))
