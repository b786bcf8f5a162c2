import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla.models import flow_matching


def test_time_one_is_noise_and_time_zero_is_actions():
    actions, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    assert torch.equal(flow_matching.interpolate(actions, noise, torch.ones(2, 3)), noise)
    assert torch.equal(flow_matching.interpolate(actions, noise, torch.zeros(2, 3)), actions)


def test_the_target_is_the_derivative_of_the_interpolant():
    actions, noise = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    early, late = (flow_matching.interpolate(actions, noise, torch.full((2, 3), t)) for t in (0.25, 0.75))
    torch.testing.assert_close((late - early) / 0.5, flow_matching.target_velocity(actions, noise))


def test_every_action_token_may_have_its_own_time():
    actions, noise = torch.zeros(1, 2, 1), torch.ones(1, 2, 1)
    noisy = flow_matching.interpolate(actions, noise, torch.tensor([[0.0, 1.0]]))
    assert noisy.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_euler_is_exact_on_a_straight_flow(num_steps):
    actions, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    sampled = flow_matching.euler(lambda x, t: noise - actions, noise, num_steps)
    torch.testing.assert_close(sampled, actions, atol=1e-6, rtol=0)


def test_euler_asks_for_the_velocity_at_the_start_of_each_step():
    times = []
    flow_matching.euler(lambda x, t: (times.append(t), torch.zeros_like(x))[1], torch.zeros(1, 1, 1), 4)
    assert times == [1.0, 0.75, 0.5, 0.25]


def test_euler_converges_on_a_gaussian_target():
    """Actions ~ N(2, 0.5^2): the marginal field is linear in x, and its flow maps noise z to 2 + 0.5 z."""

    def field(x, t):
        variance = t**2 + (1 - t) ** 2 * 0.25
        slope = (t - (1 - t) * 0.25) / variance
        return -2.0 + slope * (x - (1 - t) * 2.0)

    noise = torch.tensor([[[-1.0], [0.0], [1.5]]], dtype=torch.float64)
    sampled = flow_matching.euler(field, noise, 2000)
    torch.testing.assert_close(sampled, 2 + 0.5 * noise, atol=2e-3, rtol=0)


@given(st.floats(min_value=2**-53, max_value=1 - 2**-53))
def test_times_lie_above_the_floor_and_up_to_one(unit):
    time = flow_matching.time_from_uniform(np.array([unit]))[0]
    assert 0.001 <= time <= 1.0


def test_the_time_law_is_beta_with_mean_three_fifths():
    unit = (np.arange(100_000) + 0.5) / 100_000
    time = flow_matching.time_from_uniform(unit)
    assert time.dtype == np.float32
    assert np.mean(time, dtype=np.float64) == pytest.approx(0.999 * 0.6 + 0.001, abs=1e-5)
    assert np.mean(time > 0.5) == pytest.approx(1 - (0.499 / 0.999) ** 1.5, abs=1e-4)


def test_the_time_grid_has_the_strata_midpoints():
    expected = [0.999 * ((k + 0.5) / 4) ** (2 / 3) + 0.001 for k in range(4)]
    np.testing.assert_allclose(flow_matching.time_grid(4), expected, rtol=1e-6)
