import numpy as np
import pytest
from batches import a_spec
from hypothesis import given
from hypothesis import strategies as st

from vla.data.episodes import FOREVER
from vla.data.windows import Windows


def windows_of(*lengths: int, supervised: list[int] | None = None, **spec) -> Windows:
    return Windows.make(np.array(lengths), np.array(supervised or lengths), a_spec(**spec))


def window_of(windows: Windows, sample: int):
    return windows.window(*windows.locate(np.array([sample])))


def test_samples_are_the_steps_of_all_episodes_in_order():
    windows = windows_of(2, 3)
    episode, step = windows.locate(np.arange(5))
    assert len(windows) == 5
    assert episode.tolist() == [0, 0, 1, 1, 1]
    assert step.tolist() == [0, 1, 0, 1, 2]


def test_the_chunk_repeats_the_last_action_past_the_end_with_weight_zero():
    window = window_of(windows_of(4, horizon=3), 2)
    assert window.actions_BPH[0, 0].tolist() == [2, 3, 3]
    assert window.weight_BPH[0, 0].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("supervised", "weights"), [(4, [1, 1, 0, 0]), (3, [1, 0, 0, 0]), (2, [0, 0, 0, 0]), (FOREVER, [1, 1, 1, 1])]
)
def test_nothing_is_supervised_after_a_terminal_step_and_a_cut_episode_goes_on(supervised, weights):
    window = window_of(windows_of(4, supervised=[supervised], horizon=4), 2)
    assert window.actions_BPH[0, 0].tolist() == [2, 3, 3, 3]
    assert window.weight_BPH[0, 0].tolist() == weights


def test_observations_before_the_start_repeat_the_first_step_and_are_marked():
    window = window_of(windows_of(9, window=3, stride=2), 3)
    assert window.observed_BT[0].tolist() == [0, 1, 3]
    assert window.step_is_pad_BT[0].tolist() == [True, False, False]


def test_predicted_steps_before_the_start_have_weight_zero():
    window = window_of(windows_of(9, window=2, predict=2, stride=2, horizon=2), 1)
    assert window.actions_BPH[0].tolist() == [[0, 0], [1, 2]]
    assert window.weight_BPH[0].tolist() == [[0, 0], [1, 1]]


EPISODES = st.lists(
    st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.one_of(st.integers(0, n), st.just(FOREVER)))),
    min_size=1,
    max_size=5,
)


@given(
    episodes=EPISODES,
    horizon=st.integers(1, 6),
    window=st.integers(1, 4),
    stride=st.integers(1, 3),
    data=st.data(),
)
def test_no_index_leaves_its_episode_and_weights_mark_exactly_the_supervised_steps(
    episodes, horizon, window, stride, data
):
    predict = data.draw(st.integers(1, window))
    lengths, supervised = (list(column) for column in zip(*episodes, strict=True))
    windows = windows_of(
        *lengths, supervised=supervised, horizon=horizon, window=window, predict=predict, stride=stride
    )
    samples = np.arange(len(windows))
    episode, step = windows.locate(samples)
    assert (windows.start(episode) + step == samples).all()
    found = windows.window(episode, step)
    for row in samples:
        length, now = lengths[episode[row]], step[row]
        wanted = [now - stride * (window - 1 - i) for i in range(window)]
        assert found.observed_BT[row].tolist() == [max(0, at) for at in wanted]
        assert found.step_is_pad_BT[row].tolist() == [at < 0 for at in wanted]
        for p, at in enumerate(wanted[-predict:]):
            for h in range(horizon):
                real = at >= 0 and at + h < supervised[episode[row]]
                assert 0 <= found.actions_BPH[row, p, h] < length
                assert found.weight_BPH[row, p, h] == float(real)
                if at >= 0:
                    assert found.actions_BPH[row, p, h] == min(at + h, length - 1)
