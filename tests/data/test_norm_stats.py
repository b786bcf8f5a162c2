"""Statistics are exact: quantiles equal numpy's on the whole array, however the rows are cut into blocks."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import ArrayDataset, make_episode
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla.data import norm_stats
from vla.data.episodes import SCHEMA, EpisodeTable
from vla.data.quantiles import OrderStatistics
from vla.errors import DataError

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TIES = st.sampled_from([-1.0, -0.0, 0.0, 1e-45, 0.5, 1.0, 3.4028235e38, -3.4028235e38])
ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=FLOATS | TIES)
PROBABILITIES = [0.01, 0.5, 0.99]


def measure(values: np.ndarray, cuts: list[int] | None = None):
    blocks = np.split(values, sorted(cut % len(values) for cut in cuts or []))
    return norm_stats.measure(lambda: blocks, dims=values.shape[1])


def table_of(path, episode_ids, lengths) -> EpisodeTable:
    rows = [
        {"episode_id": i, "uid": i, "content": "", "length": n, "instruction": "open", "split": "train", "reason": ""}
        for i, n in zip(episode_ids, lengths, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    return EpisodeTable.read(path, "train")


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


@given(values=ROWS, cuts=st.lists(st.integers(0, 100), max_size=4))
def test_quantiles_equal_numpys_bit_for_bit(values, cuts):
    stats = measure(values, cuts)
    expected = np.quantile(values.astype(np.float64), PROBABILITIES, axis=0)
    assert np.array_equal(np.stack([stats.q01, stats.q50, stats.q99]), expected)
    assert np.array_equal(stats.min, values.min(axis=0))
    assert np.array_equal(stats.max, values.max(axis=0))


@given(
    values=hnp.arrays(np.float32, (30, 2), elements=st.floats(-1e6, 1e6, width=32)),
    cuts=st.lists(st.integers(0, 100), max_size=4),
    random=st.randoms(),
)
def test_the_order_of_rows_and_the_cuts_between_blocks_do_not_matter(values, cuts, random):
    order = list(range(len(values)))
    random.shuffle(order)
    first, second = measure(values), measure(values[order], cuts)
    for name in ("min", "max", "q01", "q50", "q99"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    for name in ("mean", "std"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=1e-12, atol=1e-9)


@given(hnp.arrays(np.float32, (25, 2), elements=FLOATS | TIES))
def test_every_rank_gives_the_value_that_sorting_gives(values):
    ordered = OrderStatistics(2)
    ordered.count_upper(values[:10])
    ordered.count_upper(values[10:])
    ordered.choose(np.arange(25))
    ordered.count_lower(values[:3])
    ordered.count_lower(values[3:])
    assert np.array_equal(ordered.values(), np.sort(values, axis=0))


def test_a_large_offset_costs_no_precision():
    values = (1e6 + np.arange(1000)[:, None] % 2).astype(np.float32)
    stats = measure(values)
    assert stats.mean[0] == 1e6 + 0.5
    assert stats.std[0] == 0.5


def test_a_negative_zero_is_written_as_zero():
    stats = measure(np.full((3, 1), -0.0, dtype=np.float32))
    assert not np.signbit([stats.min, stats.max, stats.q01, stats.q50, stats.q99, stats.mean]).any()


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="at least one step"):
        norm_stats.measure(list, dims=2)


def test_every_step_of_the_train_split_counts_once(tmp_path):
    episodes = [make_episode(length, seed=length) for length in (3, 5, 7)]
    table = table_of(tmp_path / "episodes.parquet", [0, 2], [3, 7])
    state, actions = norm_stats.measure_episodes(ArrayDataset(episodes), table, memory_bytes=10**6)
    assert state.count == actions.count == 10
    states = np.concatenate([episodes[0].state_TS, episodes[2].state_TS])
    chunk = np.concatenate([episodes[0].actions_TA, episodes[2].actions_TA])
    np.testing.assert_allclose(state.mean, states.mean(axis=0, dtype=np.float64), rtol=1e-14)
    np.testing.assert_allclose(actions.std, chunk.std(axis=0, dtype=np.float64), rtol=1e-14)
    assert np.array_equal(actions.q99, np.quantile(chunk.astype(np.float64), 0.99, axis=0))


@pytest.mark.parametrize(("memory_bytes", "reads"), [(0, 6), (10**6, 3)])
def test_the_memory_limit_decides_how_often_is_read_but_not_what_comes_out(tmp_path, memory_bytes, reads):
    class Counted(ArrayDataset):
        calls = 0

        def steps(self, episode_id):
            self.calls += 1
            return super().steps(episode_id)

    episodes = [make_episode(6, seed=seed) for seed in range(3)]
    table = table_of(tmp_path / "episodes.parquet", [0, 1, 2], [6, 6, 6])
    data = Counted(episodes)
    state, actions = norm_stats.measure_episodes(data, table, memory_bytes=memory_bytes)
    assert data.calls == reads
    expected = norm_stats.measure_episodes(data, table, memory_bytes=10**9)
    assert (state.to_plain(), actions.to_plain()) == tuple(part.to_plain() for part in expected)


@pytest.mark.parametrize(("value", "found"), [(np.nan, "nan"), (-np.inf, "-inf")])
def test_a_number_that_is_not_finite_is_named_by_episode_step_and_dimension(tmp_path, value, found):
    actions = np.zeros((4, 2), dtype=np.float32)
    actions[2, 1] = value
    data = ArrayDataset([make_episode(4), make_episode(4, actions_TA=actions)])
    table = table_of(tmp_path / "episodes.parquet", [0, 1], [4, 4])
    with pytest.raises(DataError, match=rf"episode 1, step 2: expected a finite number for action a1, found {found}"):
        norm_stats.measure_episodes(data, table, memory_bytes=10**6)
