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


SAMPLERS = [*flow_matching.SAMPLERS.items()]
MEAN, STD = 2.0, 0.5


def gaussian_field(x, t):
    """Actions ~ N(2, 0.5^2): E[noise - actions | x_t = x] is linear in x, and its flow maps noise z to 2 + 0.5 z."""
    variance = t**2 + (1 - t) ** 2 * STD**2
    slope = (t - (1 - t) * STD**2) / variance
    return -MEAN + slope * (x - (1 - t) * MEAN)


def error_on_gaussian(sampler, num_steps, *, field=gaussian_field):
    noise = torch.tensor([[[-1.0], [0.0], [1.5]]], dtype=torch.float64)
    return float((sampler(field, noise, num_steps) - (MEAN + STD * noise)).abs().max())


@pytest.mark.parametrize(("name", "sampler"), SAMPLERS)
@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_every_sampler_is_exact_on_a_straight_flow(name, sampler, num_steps):
    actions, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    sampled = sampler(lambda x, t: noise - actions, noise, num_steps)
    torch.testing.assert_close(sampled, actions, atol=1e-6, rtol=0)


def test_one_euler_step_subtracts_the_velocity_of_the_noise():
    noise = torch.randn(2, 3, 4)
    assert torch.equal(flow_matching.euler(lambda x, t: x.sin() + t, noise, 1), noise - (noise.sin() + 1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("euler", [1.0, 0.5]), ("midpoint", [1.0, 0.75, 0.5, 0.25]), ("heun", [1.0, 0.5, 0.5, 0.0])],
)
def test_two_steps_of_each_sampler_ask_for_the_velocity_at_known_times(name, expected):
    times = []
    field = lambda x, t: (times.append(t), torch.zeros_like(x))[1]  # noqa: E731
    flow_matching.SAMPLERS[name](field, torch.zeros(1, 1, 1), 2)
    assert times == expected
    assert len(times) == 2 * flow_matching.EVALUATIONS[name]


def test_ten_steps_are_ten_evaluations_whatever_a_tenth_is_in_binary():
    times = []
    flow_matching.euler(lambda x, t: (times.append(t), x)[1], torch.zeros(1, 1, 1), 10)
    assert times == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


ORDERS = pytest.mark.parametrize(("name", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])


@ORDERS
def test_samplers_converge_with_their_order(name, order):
    """dx/dt = x from 1 at time 1 ends at exp(-1)."""
    start = torch.ones(1, 1, 1, dtype=torch.float64)
    errors = [
        abs(float(flow_matching.SAMPLERS[name](lambda x, t: x, start, steps)) - np.exp(-1)) for steps in (100, 200)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.02)


@ORDERS
def test_samplers_converge_on_a_gaussian(name, order):
    """At least with their order: of midpoint's the leading error cancels on the way from 1 to 0."""
    coarse, fine = (error_on_gaussian(flow_matching.SAMPLERS[name], steps) for steps in (100, 200))
    assert np.log2(coarse / fine) > order - 0.1
    assert fine < 1e-2


@pytest.mark.parametrize(("name", "sampler"), SAMPLERS)
def test_a_turned_sign_or_time_ends_far_from_the_actions(name, sampler):
    """What a mix-up of conventions looks like: a loss says nothing, samples do."""
    assert error_on_gaussian(sampler, 100, field=lambda x, t: -gaussian_field(x, t)) > 1
    assert error_on_gaussian(sampler, 100, field=lambda x, t: gaussian_field(x, 1 - t)) > 0.2


def error_on_two_modes(name, evaluations):
    """Root mean square distance from the exact flow of an equal mixture of N(-1, 0.05^2) and N(1, 0.05^2)."""

    def field(x, t):
        variance = t**2 + (1 - t) ** 2 * 0.05**2
        side = torch.tanh((1 - t) * x / variance)  # of the two modes' posterior weights, their difference
        kept = (1 - t) * 0.05**2 / variance
        actions = side + kept * (x - (1 - t) * side)
        noise = t * (x - (1 - t) * side) / variance
        return noise - actions

    noise = torch.special.ndtri((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000).reshape(1, -1, 1)
    steps = evaluations // flow_matching.EVALUATIONS[name]
    sampled = flow_matching.SAMPLERS[name](field, noise, steps)
    return float((sampled - flow_matching.midpoint(field, noise, 2000)).square().mean().sqrt())


def test_at_ten_evaluations_euler_is_nearest_and_at_forty_the_second_order_wins():
    """The ground of the default: actions of two ways to do a task, and as many evaluations as a robot has time for."""
    for evaluations in (2, 4, 10):
        others = [error_on_two_modes(name, evaluations) for name in ("midpoint", "heun")]
        assert error_on_two_modes("euler", evaluations) < min(others)
    assert error_on_two_modes("midpoint", 40) < error_on_two_modes("euler", 40)


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
