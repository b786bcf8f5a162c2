import numpy as np
from batches import a_spec
from hypothesis import given
from hypothesis import strategies as st

from vla.data.windows import Windows


def window_of(windows: Windows, sample: int):
    return windows.window(*windows.locate(np.array([sample])))


def test_samples_are_the_steps_of_all_episodes_in_order():
    windows = Windows.make(np.array([2, 3]), a_spec())
    episode, step = windows.locate(np.arange(5))
    assert len(windows) == 5
    assert episode.tolist() == [0, 0, 1, 1, 1]
    assert step.tolist() == [0, 1, 0, 1, 2]


def test_the_chunk_repeats_the_last_action_past_the_end_with_weight_zero():
    window = window_of(Windows.make(np.array([4]), a_spec(horizon=3)), 2)
    assert window.actions_BPH[0, 0].tolist() == [2, 3, 3]
    assert window.weight_BPH[0, 0].tolist() == [1, 1, 0]


def test_observations_before_the_start_repeat_the_first_step_and_are_marked():
    window = window_of(Windows.make(np.array([9]), a_spec(window=3, stride=2)), 3)
    assert window.observed_BT[0].tolist() == [0, 1, 3]
    assert window.step_is_pad_BT[0].tolist() == [True, False, False]


def test_predicted_steps_before_the_start_have_weight_zero():
    window = window_of(Windows.make(np.array([9]), a_spec(window=2, predict=2, stride=2, horizon=2)), 1)
    assert window.actions_BPH[0].tolist() == [[0, 0], [1, 2]]
    assert window.weight_BPH[0].tolist() == [[0, 0], [1, 1]]


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    horizon=st.integers(1, 6),
    window=st.integers(1, 4),
    stride=st.integers(1, 3),
    data=st.data(),
)
def test_no_index_leaves_its_episode_and_weights_mark_exactly_the_real_steps(lengths, horizon, window, stride, data):
    predict = data.draw(st.integers(1, window))
    spec = a_spec(horizon=horizon, window=window, predict=predict, stride=stride)
    windows = Windows.make(np.array(lengths), spec)
    samples = np.arange(len(windows))
    episode, step = windows.locate(samples)
    found = windows.window(episode, step)
    for row in samples:
        length, now = lengths[episode[row]], step[row]
        wanted = [now - stride * (window - 1 - i) for i in range(window)]
        assert found.observed_BT[row].tolist() == [max(0, at) for at in wanted]
        assert found.step_is_pad_BT[row].tolist() == [at < 0 for at in wanted]
        for p, at in enumerate(wanted[-predict:]):
            for h in range(horizon):
                real = at >= 0 and at + h < length
                assert 0 <= found.actions_BPH[row, p, h] < length
                assert found.weight_BPH[row, p, h] == float(real)
                if real:
                    assert found.actions_BPH[row, p, h] == at + h
