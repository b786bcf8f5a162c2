"""Normalisation and back, and the statistics that define it, those of other projects included."""

import json

import numpy as np
import pytest
from builders import make_statistics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla.errors import ConfigError, DataError
from vla.normalization import NormalizationConfig, Normalize, NormStats, Statistics, make_normalize

METHODS = ("min_max", "mean_std", "quantile")


def row(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


# Normalize.


def test_min_max_maps_the_range_to_minus_one_and_one():
    normalize = Normalize(make_statistics([[0.0, 10.0], [4.0, 20.0]]), "min_max")
    assert normalize.forward(row(0, 10)).tolist() == [[-1, -1]]
    assert normalize.forward(row(4, 15)).tolist() == [[1, 0]]


def test_mean_std_maps_the_mean_to_zero_and_a_deviation_to_one():
    # Mean 2, population standard deviation 2.
    normalize = Normalize(make_statistics([[0.0], [4.0]]), "mean_std")
    assert normalize.forward(np.array([[2.0], [4.0], [-2.0]], dtype=np.float32)).tolist() == [[0], [1], [-2]]


def test_quantile_maps_the_outer_quantiles_to_minus_one_and_one():
    # 0 to 100 in steps of 1: q01 = 1, q99 = 99.
    normalize = Normalize(make_statistics(np.arange(101.0)[:, None]), "quantile")
    assert normalize.forward(np.array([[1.0], [50.0], [99.0]], dtype=np.float32)).tolist() == [[-1], [0], [1]]


@pytest.mark.parametrize("method", METHODS)
@given(
    values=hnp.arrays(np.float32, (7, 3), elements=st.floats(-1000, 1000, width=32)),
    raw=hnp.arrays(np.float32, (2, 5, 3), elements=st.floats(-1000, 1000, width=32)),
)
def test_inverse_takes_forward_back_in_every_dimension_that_varies(method, values, raw):
    normalize = Normalize(make_statistics(values), method)
    back = normalize.inverse(normalize.forward(raw))
    # float32 resolves 1e-7 of the largest value involved: the raw one or the offset.
    np.testing.assert_allclose(back[..., ~normalize.degenerate], raw[..., ~normalize.degenerate], atol=1e-3)
    assert back.dtype == np.float32
    assert back.shape == raw.shape


# The formulas of other projects, on values 1 to 3 (mean 2, deviation 1) whose outer quantiles are 1.02 and 2.98.


def by_formula(method, formula, values=((1.0,), (3.0,))):
    return Normalize(make_statistics(list(values)), method, formula=formula)


@pytest.mark.parametrize(
    ("method", "formula", "expected"),
    [
        ("mean_std", "openpi", (2.5 - 2) / (1 + 1e-6)),
        ("quantile", "openpi", (2.5 - 1.02) / (1.96 + 1e-6) * 2 - 1),
        ("mean_std", "lerobot", (2.5 - 2) / (1 + 1e-8)),
        ("quantile", "lerobot", 2 * (2.5 - 1.02) / 1.96 - 1),
        ("min_max", "lerobot", 2 * (2.5 - 1) / 2 - 1),
    ],
)
def test_another_project_s_formula_is_kept_to_the_last_digit(method, formula, expected):
    normalize = by_formula(method, formula)
    assert normalize.forward(row(2.5))[0, 0] == pytest.approx(expected, rel=1e-7)
    back = normalize.inverse(normalize.forward(row(2.5)))
    assert back[0, 0] == pytest.approx(2.5, rel=2e-7)


@pytest.mark.parametrize(
    ("method", "formula", "expected"),
    [
        ("mean_std", "openpi", 1e-6 / 1e-6),
        ("quantile", "openpi", 1e-6 / 1e-6 * 2 - 1),
        ("mean_std", "lerobot", 1e-6 / 1e-8),
        ("quantile", "lerobot", 1e-6 / 1e-8 * 2 - 1),
    ],
)
def test_a_constant_dimension_is_divided_by_the_other_project_s_epsilon(method, formula, expected):
    """The policy has learned from what this gives, noise of a sensor included."""
    normalize = by_formula(method, formula, values=[[0.0], [0.0]])
    assert not normalize.degenerate.any()
    assert normalize.forward(row(1e-6))[0, 0] == pytest.approx(expected, rel=1e-6)


def test_lerobot_s_way_back_from_a_deviation_has_no_epsilon():
    assert by_formula("mean_std", "lerobot", values=[[0.0], [0.0]]).inverse(row(5.0)).tolist() == [[0.0]]
    assert by_formula("mean_std", "openpi", values=[[0.0], [0.0]]).inverse(row(5.0))[0, 0] == pytest.approx(5e-6)


def test_other_projects_never_clip():
    assert by_formula("min_max", "lerobot").forward(row(4.0), clip=True).tolist() == [[2.0]]
    assert by_formula("min_max", "vlaflow").forward(row(4.0), clip=True).tolist() == [[1.0]]


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_dimension_becomes_zero_and_comes_back_as_its_constant(method):
    normalize = Normalize(make_statistics([[5.0, 0.0], [5.0, 1.0], [5.0, 2.0]]), method)
    assert normalize.degenerate.tolist() == [True, False]
    assert normalize.forward(row(5, 1)).tolist() == [[0, 0]]
    # Not even a value that training never saw is blown up.
    assert normalize.forward(row(7, 1)).tolist() == [[0, 0]]
    assert normalize.inverse(row(123, 0)).tolist() == [[5, 1]]


@pytest.mark.parametrize(
    ("low", "high", "is_degenerate"),
    # The limit is 1e-4 for values around 0 and grows with the median beyond 1: 1e-2 around 100.
    [(0.0, 0.99e-4, True), (0.0, 1.1e-4, False), (100.0, 100.0099, True), (100.0, 100.011, False)],
)
def test_a_range_is_degenerate_relative_to_the_size_of_its_median(low, high, is_degenerate):
    assert Normalize(make_statistics([[low], [high]]), "min_max").degenerate.tolist() == [is_degenerate]


def test_the_degenerate_limit_scales_with_its_setting():
    stats = make_statistics([[0.0], [5e-4]])
    assert not Normalize(stats, "min_max").degenerate[0]
    assert Normalize(stats, "min_max", degenerate_scale=10.0).degenerate[0]


def test_only_min_max_clips_and_only_when_asked():
    stats = make_statistics([[0.0], [4.0]])
    outside = np.array([[-4.0], [8.0]], dtype=np.float32)
    assert Normalize(stats, "min_max").forward(outside).tolist() == [[-3], [3]]
    assert Normalize(stats, "min_max").forward(outside, clip=True).tolist() == [[-1], [1]]
    for method in ("mean_std", "quantile"):
        normalize = Normalize(stats, method)
        assert np.array_equal(normalize.forward(outside, clip=True), normalize.forward(outside))


@pytest.mark.parametrize("method", METHODS)
def test_a_dimension_in_raw_units_is_left_alone_both_ways_and_is_never_degenerate(method):
    stats = make_statistics([[-1.0, 0.0, 5.0], [1.0, 4.0, 5.0]])
    normalize = Normalize(stats, method, raw=[0, 2])
    assert normalize.degenerate.tolist() == [False, False, False]
    values = row(-7.25, 2, 3.1)
    for clip in (False, True):
        assert normalize.forward(values, clip=clip).tolist() == [[-7.25, 0, values[0, 2]]]
    assert normalize.inverse(row(-7.25, 0, 3.1)).tolist() == [[-7.25, 2, values[0, 2]]]


# Statistics of other projects.

OPENPI = {"mean": [1.0, 0.0], "std": [2.0, 0.0], "q01": [-3.0, 0.0], "q99": [5.0, 0.0]}


def test_statistics_without_extremes_median_and_count_serve_the_methods_that_need_none():
    stats = Statistics.from_plain(OPENPI, where="stats.json")
    assert (stats.min, stats.q50, stats.count) == (None, None, None)
    assert Normalize(stats, "quantile").forward(row(5, 0)).tolist() == [[1, 0]]
    assert Normalize(stats, "mean_std").forward(row(5, 0)).tolist() == [[2, 0]]
    assert Statistics.from_plain(stats.to_plain(), where="again").to_plain() == OPENPI


def test_a_method_that_needs_what_is_missing_is_refused_by_name():
    stats = Statistics.from_plain({**OPENPI, "q01": None}, where="stats.json")
    with pytest.raises(DataError, match="expected min and max for the method min_max, found no min and no max"):
        Normalize(stats, "min_max")
    cfg = NormalizationConfig(state="mean_std", actions="quantile")
    make_normalize(cfg, NormStats(stats, stats), "state")
    with pytest.raises(DataError, match=r"norm stats: actions: expected q01 and q99 .* found no q01"):
        make_normalize(cfg, NormStats(stats, stats), "actions")


def test_without_a_median_a_degenerate_dimension_is_judged_by_its_mean_and_comes_back_as_it():
    # A range of 0.05 is degenerate around 1000, not around 0.
    plain = {"mean": [1000.0, 0.0], "std": [0.01, 0.01], "q01": [999.97, -0.025], "q99": [1000.02, 0.025]}
    normalize = Normalize(Statistics.from_plain(plain, where="stats.json"), "quantile")
    assert normalize.degenerate.tolist() == [True, False]
    assert normalize.inverse(row(1, 0)).tolist() == [[1000, 0]]


def test_statistics_of_the_wrong_number_of_values_are_refused():
    plain = make_statistics([[0.0, 1.0], [4.0, 5.0]]).to_plain()
    with pytest.raises(DataError, match=r"stats\.json: expected 2 values of each statistic, found 1 of q99"):
        Statistics.from_plain({**plain, "q99": [1.0]}, where="stats.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"std": None}, r"expected mean, std and mostly min, .* missing std"),
        ({"mean": [float("nan"), 0.0]}, r"expected finite numbers, found mean \[nan, 0\.0\]"),
        ({"q99": [-4.0, 0.0]}, "expected q01 below q99"),
        ({"std": [-1.0, 0.0]}, "expected a std of at least 0"),
    ],
)
def test_statistics_that_cannot_be_are_refused(changes, message):
    with pytest.raises(DataError, match=rf"stats\.json: {message}"):
        Statistics.from_plain({**OPENPI, **changes}, where="stats.json")


# The file.


def test_norm_stats_survive_a_round_trip_in_openpis_layout(tmp_path):
    path = tmp_path / "norm_stats.json"
    state, actions = make_statistics([[0.1], [0.7]]), make_statistics([[1.0, 2.0], [3.0, 9.0]])
    recorded = make_statistics([[1.0, 2.0], [5.0, 9.0]])
    NormStats(state, actions, {"episodes": 2}, recorded).write(path)
    read = NormStats.read(path)
    assert read.provenance == {"episodes": 2}
    for found, written in ((read.state, state), (read.actions, actions), (read.recorded_actions, recorded)):
        assert found.to_plain() == written.to_plain()


def test_a_reader_of_openpis_four_statistics_finds_them(tmp_path):
    path = tmp_path / "norm_stats.json"
    written = make_statistics([[1.0, 2.0], [3.0, 9.0]])
    NormStats(written, written, {"delta_actions": []}, written).write(path)
    values = json.loads(path.read_text())["norm_stats"]
    assert set(values) == {"state", "actions"}
    for quantity in values.values():
        for name in ("mean", "std", "q01", "q99"):
            array = np.asarray(quantity[name], dtype=np.float64)
            assert np.array_equal(array, getattr(written, name))


def test_a_file_of_openpi_is_read(tmp_path):
    path = tmp_path / "norm_stats.json"
    path.write_text(json.dumps({"norm_stats": {"state": OPENPI, "actions": OPENPI}}))
    stats = NormStats.read(path)
    assert stats.recorded_actions is None
    assert stats.names("state") == ["dimension 0", "dimension 1"]


def test_a_file_without_norm_stats_is_refused(tmp_path):
    (tmp_path / "norm_stats.json").write_text('{"norm_stats": {"state": {}}}')
    with pytest.raises(DataError, match="expected"):
        NormStats.read(tmp_path / "norm_stats.json")


# Settings.


def settings(**changes) -> NormalizationConfig:
    return NormalizationConfig.parse({"state": "quantile", "actions": "min_max", **changes}, where="test")


def test_a_still_dimension_stops_where_that_is_asked_for_and_is_named():
    still = make_statistics([[5.0, 0.0], [5.0, 1.0]])
    stats = NormStats(still, still, {"state_names": ["lift", "grip"]})
    assert make_normalize(settings(), stats, "state").degenerate.tolist() == [True, False]
    for quantity, name in (("state", "lift"), ("actions", "dimension 0")):
        with pytest.raises(DataError, match=rf"{quantity}: expected every dimension to move .* found {name} constant"):
            make_normalize(settings(degenerate="stop"), stats, quantity)
    raw = make_normalize(settings(degenerate="stop", raw_state=[0]), stats, "state")
    assert raw.forward(row(5, 0)).tolist() == [[5, pytest.approx(-1.0204082)]]


def test_a_raw_dimension_that_does_not_exist_is_refused():
    stats = NormStats(make_statistics([[0.0], [1.0]]), make_statistics([[0.0, 0.0], [1.0, 1.0]]))
    assert make_normalize(settings(raw_actions=[1]), stats, "actions").raw.tolist() == [False, True]
    with pytest.raises(ConfigError, match=r"raw_state: expected dimensions from 0 to 0, found \[1\]"):
        make_normalize(settings(raw_state=[1]), stats, "state")
