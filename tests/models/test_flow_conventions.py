import numpy as np
import pytest
import torch

from vla.models import flow_conventions as conventions
from vla.models import flow_matching
from vla.models.flow_matching import TIME_FLOOR, time_from_uniform

UNIT = (np.arange(10_000) + 0.5) / 10_000


def test_another_projects_line_is_ours_read_backwards():
    """GR00T: t * actions + (1 - t) * noise moves by actions - noise."""
    actions, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    theirs = torch.full((2, 3), 0.25)
    point = theirs[..., None] * actions + (1 - theirs[..., None]) * noise
    torch.testing.assert_close(flow_matching.interpolate(actions, noise, conventions.reverse_time(theirs)), point)
    ours = flow_matching.target_velocity(actions, noise)
    assert torch.equal(conventions.reverse_velocity(ours), actions - noise)


def test_a_network_of_the_other_direction_samples_its_actions_here():
    """Theirs integrates from 0 to 1 with plus signs; the same network, reversed, ends in the same place in ours."""

    def theirs(x, t):
        return torch.cos(3 * x) + t

    noise = torch.randn(2, 3, 4, dtype=torch.float64)
    expected = noise
    for step in range(8):
        expected = expected + theirs(expected, step / 8) / 8
    sampled = flow_matching.euler(conventions.reverse_field(theirs), noise, 8)
    torch.testing.assert_close(sampled, expected)


def test_reversing_twice_changes_nothing():
    field = lambda x, t: x * (t + 2)  # noqa: E731
    twice = conventions.reverse_field(conventions.reverse_field(field))
    assert torch.equal(twice(torch.ones(1, 1, 1), 0.25), field(torch.ones(1, 1, 1), 0.25))
    assert conventions.reverse_time(conventions.reverse_time(0.25)) == 0.25


def test_the_law_of_pi0s_paper_is_ours_read_backwards():
    reversed_law = conventions.reverse_time(conventions.pi0_time_from_uniform(UNIT))
    np.testing.assert_allclose(reversed_law, time_from_uniform(UNIT), atol=1e-6)


def test_groots_law_differs_from_ours_by_less_than_a_thousandth_and_begins_below_zero():
    theirs = conventions.groot_time_from_uniform(UNIT)
    assert theirs.min() == pytest.approx(-TIME_FLOOR, abs=1e-4)
    assert np.mean(theirs < 0) == pytest.approx(0.0015, abs=1e-4)
    np.testing.assert_allclose(conventions.reverse_time(theirs), time_from_uniform(UNIT), atol=1.01e-3)
