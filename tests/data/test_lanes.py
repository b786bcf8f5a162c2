import threading

import numpy as np
import pytest
from builders import ArrayDataset, make_episode
from splits import a_dataset, a_table, some_samples

from vla.data.frames import Frames
from vla.data.lanes import Lanes
from vla.data.order import BlocksOrder
from vla.data.samples import read_numbers
from vla.errors import ConfigError, DataError

LENGTHS = (40, 70, 33, 90, 60)


class Watched(ArrayDataset):
    """Notes which frames of the view front are asked for, and that no two threads ask at the same time."""

    def __init__(self, *arguments, **changes) -> None:
        super().__init__(*arguments, **changes)
        self.frames: list[tuple[int, int]] = []
        self.busy = threading.Lock()

    def __deepcopy__(self, memo):
        raise AssertionError("not copied here")

    def images(self, episode_id, view, steps_N=None):
        assert self.busy.acquire(blocking=False), "two threads read from one dataset"
        try:
            found = super().images(episode_id, view, steps_N)
            if view == "front":
                steps = range(len(found)) if steps_N is None else steps_N.tolist()
                self.frames += [(episode_id, step) for step in steps]
            return found
        finally:
            self.busy.release()


def some_lanes(datasets=None, *, batch_size=8, buffer_steps=10, limit_bytes=10**9, **spec):
    samples = some_samples(a_table(LENGTHS, blocks=[[0]] * len(LENGTHS)), **spec)
    order = BlocksOrder(samples.table, seed=0, batch_size=batch_size, buffer_steps=buffer_steps)
    lanes = Lanes(order, samples, datasets or [a_dataset(LENGTHS)], limit_bytes=limit_bytes)
    return order, samples, lanes


def check(contents, samples, sample_B) -> None:
    """Compare with the samples as read one by one."""
    dataset = a_dataset(LENGTHS)
    expected = read_numbers(samples, dataset, sample_B)
    for name in ("state_BTS", "actions_BPHA", "time_BT"):
        np.testing.assert_array_equal(getattr(contents.numbers, name), getattr(expected, name))
    observed = samples.observed(sample_B)
    frames = Frames.decode(samples, dataset, np.unique(observed))
    np.testing.assert_array_equal(contents.pixels_BTVCYX, frames.take(frames.rows(observed)))


@pytest.mark.parametrize("spec", [{}, {"window": 3, "predict": 2, "stride": 2}])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_holds_its_samples(spec, threads):
    order, samples, lanes = some_lanes([a_dataset(LENGTHS) for _ in range(threads)], **spec)
    for step in range(2 * order.steps_per_epoch):
        check(lanes.take(step, 0, 8), samples, order.samples(step))
    lanes.close()


def test_any_step_may_be_asked_for_again():
    order, samples, lanes = some_lanes()
    for step in (0, 30, 30, 2, 3, 71):
        check(lanes.take(step, 2, 7), samples, order.samples(step)[2:7])
    lanes.close()


def test_an_epoch_decodes_every_frame_at_most_once():
    dataset = Watched([make_episode(n, seed=row) for row, n in enumerate(LENGTHS)])
    order, _, lanes = some_lanes([dataset])
    for step in range(order.steps_per_epoch):
        for first in (0, 4):
            lanes.take(step, first, first + 4)
    lanes.close()
    assert len(dataset.frames) == len(set(dataset.frames)) == order.steps_per_epoch * 8


def test_a_worker_reads_its_own_lanes_only():
    datasets = [Watched([make_episode(n, seed=row) for row, n in enumerate(LENGTHS)]) for _ in range(2)]
    for rank, dataset in enumerate(datasets):
        order, _, lanes = some_lanes([dataset])
        for step in range(order.steps_per_epoch):
            lanes.take(step, 4 * rank, 4 * rank + 4)
        lanes.close()
    one, two = (set(dataset.frames) for dataset in datasets)
    assert not one & two
    assert len(one | two) == order.steps_per_epoch * 8


def test_only_the_groups_in_use_and_the_next_ones_are_kept():
    order, _, lanes = some_lanes()
    for step in range(order.steps_per_epoch):
        lanes.take(step, 0, 8)
        assert {key[1] for key in lanes._groups} == set(range(8))
        assert len(lanes._groups) <= 8 + 1
    lanes.close()


def test_a_reader_s_error_reaches_the_step_that_needs_the_frames():
    episodes = [make_episode(n, seed=row) for row, n in enumerate(LENGTHS)]
    episodes[3] = make_episode(90, image_errors={"wrist": "episode 3: damaged"})
    order, samples, lanes = some_lanes([ArrayDataset(episodes)])
    first, end = samples.windows.start(np.array([3]))[0], samples.windows.end_E[3]
    for step in range(order.steps_per_epoch):
        groups = np.concatenate([order.group(part.group) for part in order.parts(step, 0, 8)])
        if ((first <= groups) & (groups < end)).any():
            break
        lanes.take(step, 0, 8)
    with pytest.raises(DataError, match="episode 3: damaged"):
        lanes.take(step, 0, 8)
    lanes.close()


def test_more_memory_than_allowed_is_refused_with_both_numbers():
    # 8 lanes and one group ahead, of 10 samples of 2 views of 8 x 16 pixels in 3 colours.
    needed = 9 * 10 * 2 * 8 * 16 * 3
    some_lanes(limit_bytes=needed)[2].close()
    with pytest.raises(ConfigError, match=rf"execution\.cache_bytes: expected room for {needed:,} bytes.*buffer_steps"):
        some_lanes(limit_bytes=needed - 1)


def test_reading_and_waiting_are_timed():
    lanes = some_lanes()[2]
    lanes.take(0, 0, 8)
    assert lanes.seconds > 0
    assert lanes.waited > 0
    lanes.close()
