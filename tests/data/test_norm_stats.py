"""What counts in the statistics, and how often; that they are exact is tested with moments and quantiles."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import ArrayDataset, make_demonstration, make_episode, write_dataset_folder
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from splits import a_table

from vla import artifacts
from vla.data import norm_stats
from vla.data.episodes import FOREVER, SCHEMA
from vla.data.norm_stats import Counted, Counting
from vla.delta import DeltaRange
from vla.errors import ConfigError, DataError
from vla.normalization import NormStats, Statistics
from vla.sim import world

LENGTHS = (3, 5, 7)
PLAIN = Counting({"arrays": 1}, horizon=4)
DELTA = (DeltaRange(actions=(1, 2), state=(2, 3)),)


@pytest.fixture
def episodes():
    return [make_episode(length, seed=length) for length in LENGTHS]


def measure(episodes, counting=PLAIN, *, memory_bytes=10**6, **table) -> NormStats:
    lengths = [len(episode.timestamp_T) for episode in episodes]
    data, episode_table = ArrayDataset(episodes), a_table(lengths, **table)
    return Counted(data, episode_table, counting, memory_bytes=memory_bytes).statistics()


def assert_statistics_of(stats: Statistics, rows, *, dims=slice(None)) -> None:
    """The rows' statistics by numpy; `dims` are those of the statistics that the rows are about."""
    values = np.asarray(rows, dtype=np.float32).astype(np.float64)
    for name, probability in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
        assert np.array_equal(getattr(stats, name)[dims], np.quantile(values, probability, axis=0))
    assert np.array_equal(stats.min[dims], values.min(axis=0))
    assert np.array_equal(stats.max[dims], values.max(axis=0))
    np.testing.assert_allclose(stats.mean[dims], values.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(stats.std[dims], values.std(axis=0), rtol=1e-12, atol=1e-14)


def chunks(actions, horizon) -> np.ndarray:
    """All chunks of an episode, [T, H, A], the last action repeated past the end."""
    index = np.minimum(np.arange(len(actions))[:, None] + np.arange(horizon), len(actions) - 1)
    return actions[index]


def test_every_step_of_the_train_split_counts_once(episodes):
    table = a_table([3, 7], ids=[0, 2])
    found = Counted(ArrayDataset(episodes), table, PLAIN, memory_bytes=10**6).statistics()
    assert found.state.count == found.actions.count == 10
    assert_statistics_of(found.state, np.concatenate([episodes[0].state_TS, episodes[2].state_TS]))
    assert_statistics_of(found.actions, np.concatenate([episodes[0].actions_TA, episodes[2].actions_TA]))
    assert found.recorded_actions.to_plain() == found.actions.to_plain()


@pytest.mark.parametrize("horizon", [1, 4, 6])
def test_by_chunks_an_action_counts_as_often_as_it_stands_in_one(episodes, horizon):
    found = measure(episodes, Counting({"arrays": 1}, horizon, chunks=True))
    listed = np.concatenate([chunks(episode.actions_TA, horizon).reshape(-1, 2) for episode in episodes])
    assert_statistics_of(found.actions, listed)
    assert found.actions.count == sum(LENGTHS) * horizon
    assert_statistics_of(found.state, np.concatenate([episode.state_TS for episode in episodes]))
    assert_statistics_of(found.recorded_actions, np.concatenate([episode.actions_TA for episode in episodes]))


@pytest.mark.parametrize("horizon", [1, 4, 6])
def test_delta_actions_are_measured_over_all_real_steps_of_all_chunks(episodes, horizon):
    found = measure(episodes, Counting({"arrays": 1}, horizon, delta=DELTA))
    pairs = [
        episode.actions_TA[t + h, 1] - episode.state_TS[t, 2]
        for episode in episodes
        for t in range(len(episode.actions_TA))
        for h in range(horizon)
        if t + h < len(episode.actions_TA)
    ]
    assert_statistics_of(found.actions, pairs, dims=1)
    recorded = np.concatenate([episode.actions_TA for episode in episodes])
    assert_statistics_of(found.actions, recorded[:, 0], dims=0)
    assert_statistics_of(found.recorded_actions, recorded)


@given(
    actions=hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(-9, 9, width=32)),
    horizon=st.integers(1, 15),
)
def test_delta_actions_by_chunks_include_the_repeated_last_action(actions, horizon):
    episode = make_episode(len(actions), actions_TA=actions)
    found = measure([episode], Counting({"arrays": 1}, horizon, chunks=True, delta=DELTA))
    relative = chunks(actions, horizon)[..., 1] - episode.state_TS[:, None, 2]
    assert_statistics_of(found.actions, relative.ravel(), dims=1)
    assert_statistics_of(found.actions, chunks(actions, horizon)[..., 0].ravel(), dims=0)


@pytest.mark.parametrize("memory_bytes", [0, 10**6])
@pytest.mark.parametrize("chunked", [False, True])
def test_steps_after_a_terminal_one_do_not_count(episodes, chunked, memory_bytes):
    counting = Counting({"arrays": 1}, 4, chunks=chunked, delta=DELTA)
    found = measure(episodes, counting, supervised=[2, FOREVER, 7], memory_bytes=memory_bytes)
    first = episodes[0]
    cut = make_episode(2, state_TS=first.state_TS[:2], actions_TA=first.actions_TA[:2])
    expected = measure([cut, *episodes[1:]], counting)
    for name in ("state", "actions", "recorded_actions"):
        assert getattr(found, name).to_plain() == getattr(expected, name).to_plain()
    kept = [(2, first), (5, episodes[1]), (7, episodes[2])]
    assert_statistics_of(found.state, np.concatenate([episode.state_TS[:stop] for stop, episode in kept]))
    assert_statistics_of(found.recorded_actions, np.concatenate([episode.actions_TA[:stop] for stop, episode in kept]))


def test_a_delta_range_beyond_the_state_is_refused(episodes):
    beyond = (DeltaRange(actions=(0, 2), state=(2, 4)),)
    with pytest.raises(ConfigError, match=r"delta_actions: expected state among the dimensions 0 to 2, found \[2, 4\]"):
        measure(episodes, Counting({"arrays": 1}, 4, delta=beyond))


@pytest.mark.parametrize("delta", [(), DELTA])
def test_sources_of_a_mixture_count_as_their_multiplicity_says(episodes, delta):
    counting = Counting({"a": 3, "b": 1}, 2, delta=delta)
    found = measure(episodes, counting, sources=["a", "b", "a"])
    repeated = [episodes[0]] * 3 + [episodes[1]] + [episodes[2]] * 3
    expected = measure(repeated, Counting({"arrays": 1}, 2, delta=delta))
    assert found.state.count == 3 * 10 + 5
    assert_statistics_of(found.state, np.concatenate([episode.state_TS for episode in repeated]))
    for name in ("q01", "q50", "q99", "min", "max"):
        assert np.array_equal(getattr(found.actions, name), getattr(expected.actions, name))
    np.testing.assert_allclose(found.actions.std, expected.actions.std, rtol=1e-12)
    assert_statistics_of(found.recorded_actions, np.concatenate([episode.actions_TA for episode in episodes]))


@pytest.mark.parametrize(("memory_bytes", "reads"), [(0, 6), (10**6, 3)])
def test_the_memory_limit_decides_how_often_is_read_but_not_what_comes_out(episodes, memory_bytes, reads):
    class Reads(ArrayDataset):
        calls = 0

        def steps(self, episode_id):
            self.calls += 1
            return super().steps(episode_id)

    data, counting = Reads(episodes), Counting({"arrays": 1}, 3, chunks=True, delta=DELTA)
    found = Counted(data, a_table(LENGTHS), counting, memory_bytes=memory_bytes).statistics()
    assert data.calls == reads
    expected = measure(episodes, counting, memory_bytes=10**9)
    for name in ("state", "actions", "recorded_actions"):
        assert getattr(found, name).to_plain() == getattr(expected, name).to_plain()


@pytest.mark.parametrize(("value", "found"), [(np.nan, "nan"), (-np.inf, "-inf")])
def test_a_number_that_is_not_finite_is_named_by_episode_step_and_dimension(value, found):
    actions = np.zeros((4, 2), dtype=np.float32)
    actions[2, 1] = value
    with pytest.raises(DataError, match=rf"episode 1, step 2: expected a finite number for action a1, found {found}"):
        measure([make_episode(4), make_episode(4, actions_TA=actions)])


# The stage.


HORIZON = 4


@pytest.fixture
def folder(tmp_path):
    """A dataset of three episodes, all of the train split."""
    write_dataset_folder(tmp_path / "dataset", [make_demonstration(length=6, seed=seed) for seed in range(3)])
    row = {"source": "noise", "content": "c", "length": 6, "instruction": "open", "split": "train", "reason": ""}
    rows = [{**row, "episode_id": number, "uid": number} for number in range(3)]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "episodes.parquet")
    return tmp_path


def run(folder, *, weighting="steps", delta=(), horizon=HORIZON, reuse=None) -> NormStats:
    columns = {"state": "observation.state", "actions": "action", "views": {}}
    cfg = norm_stats.Config.parse(
        {
            "data": {"name": "noise", "format": "lerobot_v30", "columns": columns},
            "norm_stats": {"weighting": weighting, "memory_bytes": 0, "reuse": reuse},
            "policy": {"name": "tiny_vla", "action_horizon": horizon},
            "transforms": {"max_tokens": 8, "delta_actions": delta},
        },
        where="test",
    )
    out = folder / "norm_stats.json"
    norm_stats.run(cfg, dataset=folder / "dataset", episodes=folder / "episodes.parquet", norm_stats=out)
    return NormStats.read(out)


def test_the_file_says_what_was_counted(folder):
    plain = run(folder)
    assert plain.provenance["weighting"] == "steps"
    assert plain.provenance["delta_actions"] == []
    assert plain.provenance["state_names"] == list(world.STATE_NAMES)
    assert plain.provenance["steps"] == plain.recorded_actions.count == plain.actions.count
    delta = [{"actions": [0, 2], "state": [0, 2]}]
    changed = run(folder, weighting="chunks", delta=delta)
    assert changed.provenance["weighting"] == "chunks"
    assert changed.provenance["delta_actions"] == delta
    assert changed.provenance["action_horizon"] == HORIZON
    assert changed.recorded_actions.to_plain() == plain.recorded_actions.to_plain()
    assert changed.state.to_plain() == plain.state.to_plain()


def test_a_horizon_that_enters_no_number_changes_no_byte(folder):
    written = []
    for horizon in (4, 5):
        run(folder, horizon=horizon)
        written.append((folder / "norm_stats.json").read_bytes())
    assert written[0] == written[1]


def test_constant_dimensions_are_named_in_the_log(caplog):
    still = make_episode(9, actions_TA=np.stack([np.arange(9.0), np.full(9, 5.0)], axis=1).astype(np.float32))
    found = measure([still])
    with caplog.at_level(logging.WARNING):
        norm_stats._report_degenerate(found)
    assert [record.getMessage() for record in caplog.records] == [
        "actions: constant by min_max, mean_std, quantile: dimension 1"
    ]


def test_statistics_of_a_checkpoint_are_taken_over_and_say_so(folder):
    own = run(folder)
    source = folder / "checkpoint/assets/b1k/norm_stats.json"
    padded = {"mean": [0.5] * 32, "std": [2.0] * 32, "q01": [-1.0] * 32, "q99": [1.0] * 32}
    artifacts.write_json(source, {"norm_stats": {"state": padded, "actions": padded}})
    found = run(folder, reuse=str(folder / "checkpoint"))
    assert found.state.mean.tolist() == [0.5] * own.state.dims
    assert found.actions.q99.tolist() == [1.0] * own.actions.dims
    assert found.recorded_actions.to_plain() == own.recorded_actions.to_plain()
    assert found.provenance["reused"]["path"] == str(folder / "checkpoint")
    assert "delta_actions" not in found.provenance


def test_statistics_of_fewer_dimensions_are_not_taken_over(folder):
    short = {"mean": [0.5], "std": [2.0]}
    artifacts.write_json(folder / "short.json", {"norm_stats": {"state": short, "actions": short}})
    with pytest.raises(DataError, match=r"short\.json: expected statistics of 4 state dimensions.*found 1"):
        run(folder, reuse=str(folder / "short.json"))


def test_dimensions_are_called_by_their_names_in_the_file(folder):
    found = run(folder)
    assert found.names("actions") == list(world.ACTION_NAMES)
    assert found.names("state") == list(world.STATE_NAMES)
