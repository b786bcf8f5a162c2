import numpy as np
import pytest
from builders import ArrayDataset, make_episode, make_statistics
from splits import a_table

from vla.data.norm_stats import Counted, Counting
from vla.data.stats_fit import compare, share_outside
from vla.delta import DeltaRange
from vla.normalization import Normalize, Statistics

UNIT = make_statistics(np.linspace(-1, 1, 201)[:, None])


def fit(data, *, learned=UNIT, method="min_max", outside=0.0):
    found = make_statistics(np.asarray(data, dtype=np.float64)[:, None])
    normalize = Normalize(learned, method)
    return compare(["x"], learned=learned, normalize=normalize, found=found, outside_D=np.array([outside]))[0]


def test_data_fit_the_statistics_that_were_computed_of_them():
    for method in ("min_max", "quantile", "mean_std"):
        assert fit(np.linspace(-1, 1, 201), method=method, outside=0.02).verdict == "fits"


def test_a_large_share_or_one_value_far_away_is_outside():
    assert fit([-1, 1], outside=0.04).verdict == "fits"
    assert fit([-1, 1], outside=0.06).verdict == "outside"
    assert fit([-1, 9.9]).verdict == "fits"
    far = fit([-10.1, 1])
    assert (far.verdict, far.largest) == ("outside", pytest.approx(10.1))
    # Three standard deviations are the limit of mean_std, so ten limits are thirty of them.
    assert fit([-1, 29 * UNIT.std[0]], method="mean_std").verdict == "fits"
    assert fit([-1, 31 * UNIT.std[0]], method="mean_std").verdict == "outside"


def test_data_in_a_small_part_of_the_learned_range_find_it_too_wide():
    assert fit(np.linspace(0.0, 0.22, 101)).verdict == "fits"
    assert fit(np.linspace(0.0, 0.19, 101)).verdict == "wide"


def test_a_dimension_that_was_constant_must_stay_so():
    still = make_statistics([[5.0], [5.0]])
    assert fit([5.0, 5.0004], learned=still).verdict == "fits"
    moves = fit([5.0, 6.0], learned=still)
    assert (moves.verdict, moves.largest, moves.learned, moves.shift) == ("constant", 0, (5, 5), None)
    assert fit([7.0, 7.0], learned=still).verdict == "constant"


def test_what_is_reported_beside_the_verdict():
    found = fit([0.0, 0.5, 1.0], outside=0.01)
    assert found.data == (0, pytest.approx(0.01), pytest.approx(0.99), 1)
    assert found.learned == (-1, 1)
    assert (found.outside, found.largest) == (0.01, 1)
    assert found.shift == pytest.approx(0.5 / UNIT.std[0])


def shares(counting, episodes, *, state_dims=3, delta=()):
    wide = Statistics(mean=np.zeros(3), std=np.ones(3), min=-np.ones(3), max=np.ones(3))
    lengths = [len(episode.timestamp_T) for episode in episodes]
    counted = Counted(ArrayDataset(episodes), a_table(lengths), counting, memory_bytes=0)
    state = Normalize(wide.first(state_dims), "min_max")
    return share_outside(counted, state=state, actions=Normalize(wide.first(2), "min_max"))


@pytest.fixture
def episodes():
    return [make_episode(length, seed=length) for length in (5, 8)]


def test_the_share_outside_is_that_of_all_steps(episodes):
    found = shares(Counting({"arrays": 1}, 4), episodes)
    for name, quantity in (("state_TS", "state"), ("actions_TA", "actions")):
        values = np.concatenate([getattr(episode, name) for episode in episodes])
        np.testing.assert_allclose(found[quantity], (np.abs(values) > 1).mean(axis=0))


def test_dimensions_that_the_statistics_lack_are_left_out(episodes):
    found = shares(Counting({"arrays": 1}, 4), episodes, state_dims=2)
    assert found["state"].shape == (2,)


@pytest.mark.parametrize("chunks", [False, True])
def test_differences_are_counted_as_they_are_learned(episodes, chunks):
    delta = (DeltaRange(actions=(1, 2), state=(2, 3)),)
    found = shares(Counting({"arrays": 1}, 3, chunks=chunks, delta=delta), episodes)
    outside, recorded = [], []
    for episode in episodes:
        last = len(episode.actions_TA) - 1
        for t in range(last + 1):
            for h in range(3):
                if chunks or t + h <= last:
                    action = episode.actions_TA[min(t + h, last)]
                    outside.append(abs(action[1] - episode.state_TS[t, 2]) > 1)
                if chunks or h == 0:
                    recorded.append(abs(episode.actions_TA[min(t + h, last), 0]) > 1)
    np.testing.assert_allclose(found["actions"], [np.mean(recorded), np.mean(outside)])
