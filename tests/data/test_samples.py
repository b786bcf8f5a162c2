from dataclasses import replace

import numpy as np
import pytest
from builders import ArrayDataset, make_episode
from splits import LENGTHS, TEXTS, a_dataset, a_processor, a_table, some_samples

from vla.data.episodes import FOREVER
from vla.data.samples import read_all_steps, read_numbers, runs
from vla.errors import DataError


def test_numbers_are_the_normalised_steps_of_each_window():
    dataset, processor = a_dataset(), a_processor()
    samples = some_samples(window=2, predict=2, stride=2)
    # Step 1 of episode 1, whose window begins before the episode, and the last step of episode 0.
    numbers = read_numbers(samples, dataset, np.array([6, 4]))
    first, second = dataset.steps(1), dataset.steps(0)
    for row, steps, observed in ((0, first, [0, 1]), (1, second, [2, 4])):
        np.testing.assert_array_equal(numbers.state_BTS[row], processor.state.forward(steps.state_TS[observed]))
        np.testing.assert_array_equal(numbers.time_BT[row], steps.timestamp_T[observed].astype(np.float32))
    np.testing.assert_array_equal(numbers.actions_BPHA[0, 1], processor.actions.forward(first.actions_TA[1:4]))
    np.testing.assert_array_equal(numbers.actions_BPHA[1, 1], processor.actions.forward(second.actions_TA[[4, 4, 4]]))


def test_samples_read_one_by_one_are_those_of_all_steps_together():
    dataset, samples = a_dataset(), some_samples(window=3, stride=2)
    chosen = np.array([15, 0, 7, 3, 7, 12])
    steps, windows = read_all_steps(samples, dataset), samples.windows
    episode, step = windows.locate(chosen)
    together = samples.numbers(steps, windows.window(episode, step), windows.start(episode))
    apart = read_numbers(samples, dataset, chosen)
    for name in ("state_BTS", "actions_BPHA", "time_BT"):
        np.testing.assert_array_equal(getattr(apart, name), getattr(together, name))


def test_delta_actions_are_relative_to_the_state_at_the_start_of_their_chunk():
    dataset = a_dataset()
    delta = [{"actions": (0, 2), "state": (0, 2)}]
    samples = replace(some_samples(), processor=a_processor(delta_actions=delta))
    steps = dataset.steps(1)
    expected = samples.processor.actions.forward(steps.actions_TA[2:5] - steps.state_TS[2, :2])
    np.testing.assert_allclose(read_numbers(samples, dataset, np.array([7])).actions_BPHA[0, 0], expected, rtol=1e-6)


def test_chunk_weights_are_counted_without_reading_the_chunks():
    # Episodes of 5, 7 and 4 steps with chunks of 3: all steps count 3 but the last two of each, 2 and 1; 2 dims.
    assert some_samples().chunk_weight(np.arange(16)) == 2 * (3 * 16 - 3 * 3)


def test_padded_actions_count_where_the_user_says_so_or_the_episode_was_cut_off():
    everything = np.arange(16)
    assert some_samples(supervise_padded=True).chunk_weight(everything) == 2 * 3 * 16
    cut_off = some_samples(a_table(supervised=[5, FOREVER, 4]))
    assert cut_off.chunk_weight(everything) == 2 * (3 * 16 - 2 * 3)


def test_tokens_are_kept_per_distinct_instruction():
    samples, processor = some_samples(window=2), a_processor()
    assert samples.known is not None
    assert len(samples.known[0]) == 2
    first = np.array([0, 5, 12])  # of each episode
    for row, episode in zip(np.arange(3), range(len(LENGTHS)), strict=True):
        ids_BTL, is_pad_BTL = samples.tokens(first, np.zeros((3, 2, 3), np.float32))
        ids, is_pad = processor.tokenize(TEXTS[episode])
        assert ids_BTL[row].tolist() == [ids.tolist()] * 2
        assert is_pad_BTL[row].tolist() == [is_pad.tolist()] * 2


def test_observed_steps_are_numbered_over_the_split():
    samples = some_samples(window=3, stride=2)
    assert samples.observed(np.array([4, 6, 11])).tolist() == [[0, 2, 4], [5, 5, 6], [7, 9, 11]]


def test_an_episode_of_another_length_than_validated_is_refused():
    dataset = ArrayDataset([make_episode(n) for n in (5, 6, 4)])
    with pytest.raises(DataError, match=r"episode 1: expected 7 steps, found 6. Run 'dvc repro validate'"):
        read_all_steps(some_samples(), dataset)


def test_runs_are_the_longest_ranges_of_equal_values():
    assert list(runs(np.array([3, 3, 5, 3]))) == [(0, 2), (2, 3), (3, 4)]
    assert list(runs(np.array([0]))) == [(0, 1)]


def test_time_counts_from_the_start_of_the_episode_whatever_the_clock_says():
    # Seconds since 1970, which float32 resolves to two minutes.
    clock = 1_700_000_000 + np.arange(5) / 10
    dataset = ArrayDataset([make_episode(5, timestamp_T=clock)])
    samples = some_samples(a_table([5]), window=2)
    numbers = read_numbers(samples, dataset, np.array([0, 4]))
    np.testing.assert_allclose(numbers.time_BT, [[0, 0], [0.3, 0.4]], atol=1e-6)


def test_a_batch_in_which_nothing_is_supervised_divides_by_one():
    ended = some_samples(a_table(supervised=[2, 7, 4]))
    assert ended.chunk_weight(np.array([2, 3, 4])) == 1
    assert ended.chunk_weight(np.array([1, 2])) == 2
