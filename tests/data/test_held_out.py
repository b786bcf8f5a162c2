import numpy as np
import pytest
import torch
from splits import a_dataset, a_table, some_samples

from vla import keyed
from vla.data import held_out as module
from vla.data.frames import Frames
from vla.data.held_out import HeldOut, ValidationOrder, held_out
from vla.data.samples import Samples, read_numbers


@pytest.fixture
def samples():
    return some_samples()


def chosen_samples(samples: Samples, count: int = 6) -> HeldOut:
    chosen = held_out(samples, count)
    frames = Frames.decode(samples, a_dataset(), np.unique(samples.observed(chosen)))
    return HeldOut.read(samples, chosen, dataset=a_dataset(), frames=frames)


def test_validation_batches_depend_on_no_cut_and_hold_each_time_once_per_sample(samples):
    order = ValidationOrder(chosen_samples(samples), seed=0, num_times=2)
    whole = order.batch(0, len(order))
    parts = [order.batch(first, min(first + 5, len(order))) for first in range(0, len(order), 5)]
    assert len(order) == 12
    assert torch.equal(torch.cat([part.noise_BPHA for part in parts]), whole.noise_BPHA)
    assert torch.equal(torch.cat([part.obs.images_BTVCYX for part in parts]), whole.obs.images_BTVCYX)
    assert whole.weight_total == pytest.approx(float(whole.weight_BPHA.sum()))
    times = whole.time_BPH[:, 0, 0].reshape(6, 2)
    assert (times == times[0]).all()
    assert times[0, 0] < times[0, 1]


def test_validation_batches_hold_the_steps_and_frames_of_their_samples(samples):
    order = ValidationOrder(chosen_samples(samples), seed=0, num_times=1)
    batch = order.batch(0, 6)
    expected = read_numbers(samples, a_dataset(), order.held.sample_K)
    np.testing.assert_array_equal(batch.actions_BPHA.numpy(), expected.actions_BPHA)
    np.testing.assert_array_equal(batch.obs.state_BTS.numpy(), expected.state_BTS)
    every = Frames.decode(samples, a_dataset(), np.arange(16))
    images = every.take(samples.observed(order.held.sample_K))
    np.testing.assert_array_equal(batch.obs.images_BTVCYX.numpy(), images)


def test_the_validation_subset_is_chosen_by_identity_not_by_place(samples):
    few, more = held_out(samples, 6), held_out(samples, 9)
    assert set(few) < set(more)
    assert few.tolist() == sorted(few.tolist())
    assert held_out(samples, 99).tolist() == list(range(16))


def test_of_many_episodes_some_are_chosen_by_identity_before_their_steps(monkeypatch):
    monkeypatch.setattr(module, "CANDIDATES", 10)
    lengths = [4] * 50
    samples = some_samples(a_table(lengths))
    chosen = held_out(samples, 7)
    assert len(set(chosen // 4)) <= 3
    uids = [keyed.uid("validation", uid) for uid in samples.table.uid_E.tolist()]
    assert set(chosen // 4) <= set(np.argsort(uids)[:3])
