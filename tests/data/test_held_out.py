from dataclasses import replace

import numpy as np
import pytest
import torch
from splits import LENGTHS, a_dataset, a_processor, a_table, some_samples

from vla import keyed
from vla.action_errors import ActionScale
from vla.data import held_out as module
from vla.data.episodes import FOREVER
from vla.data.frames import Frames
from vla.data.held_out import ActionOrder, Chunks, HeldOut, ValidationOrder, held_out
from vla.data.samples import Samples, read_numbers
from vla.errors import DataError

SCALE = ActionScale(np.array([0.5, 2.0]), np.array([True, True]))


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


def an_action_order(samples: Samples, count: int = 6, *, scale: ActionScale = SCALE) -> ActionOrder:
    held = chosen_samples(samples, count)
    chunks = Chunks.read(samples, held.sample_K, dataset=a_dataset())
    return ActionOrder(held, chunks, scale, seed=0, num_steps=2)


def test_sampled_errors_are_in_raw_units_over_each_dimension_s_and_of_recorded_actions_alone():
    table = a_table(supervised=(FOREVER, 2, 4))
    order = an_action_order(some_samples(table, supervise_padded=True), 16)
    # Normalised 0 is raw 0: the error of an action is the action. 5, 2 and 4 steps of the episodes count.
    errors = order.errors(0, 16, np.zeros((16, 3, 2), np.float32))
    counted = [
        np.abs(a_dataset().steps(episode).actions_TA[start + h])
        for episode, counts in enumerate((5, 2, 4))
        for start in range(LENGTHS[episode])
        for h in range(3)
        if start + h < counts
    ]
    assert errors.weight_HA.sum() == 2 * len(counted)
    assert errors.absolute_HA.sum() == pytest.approx((np.array(counted) / [0.5, 2.0]).sum(), rel=1e-6)


def test_a_dimension_that_does_not_vary_is_no_part_of_sampled_errors(samples):
    order = an_action_order(samples, scale=ActionScale(np.array([0.0, 2.0]), np.array([False, True])))
    chunks = order.held.numbers.actions_BPHA[:, -1].copy()
    chunks[..., 0] += 7
    assert order.errors(0, 6, chunks).mae == pytest.approx(0, abs=1e-6)


def test_the_chunks_that_training_learns_have_no_error_for_windows_and_delta_actions_alike():
    samples = some_samples(window=3, predict=2, stride=2)
    samples = replace(samples, processor=a_processor(delta_actions=[{"actions": [1, 2], "state": [0, 1]}]))
    order = an_action_order(samples, 16)
    chunks = order.held.numbers.actions_BPHA[:, -1]
    assert order.errors(0, 16, chunks).mae == pytest.approx(0, abs=1e-6)
    assert order.errors(4, 9, chunks[4:9]).mae == pytest.approx(0, abs=1e-6)
    # One raw unit is two spreads of the first dimension and half a spread of the second.
    assert order.errors(0, 16, chunks + np.float32(1)).mae == pytest.approx(1.25, rel=1e-5)


def test_what_a_policy_samples_from_depends_on_the_sample_alone(samples):
    few, more = an_action_order(samples, 6), an_action_order(samples, 9)
    whole, noise_BHA = more.batch(0, 9)
    assert noise_BHA.shape == (9, 3, 2)
    for place, sample in enumerate(few.held.sample_K):
        row = int(np.flatnonzero(more.held.sample_K == sample)[0])
        obs, noise = few.batch(place, place + 1)
        assert torch.equal(noise[0], noise_BHA[row])
        assert torch.equal(obs.images_BTVCYX[0], whole.images_BTVCYX[row])
        assert torch.equal(obs.state_BTS[0], whole.state_BTS[row])
    uid = int(samples.sample_uid(few.held.sample_K[:1])[0])
    np.testing.assert_array_equal(few.batch(0, 1)[1][0], keyed.normal(0, "sampling", uid, shape=(3, 2)))


def test_samples_after_terminal_steps_have_no_sampled_error():
    samples = some_samples(a_table([4], supervised=[1]))
    last = np.array([1, 2, 3])
    with pytest.raises(DataError, match="expected actions before a terminal step among the 3 chosen"):
        Chunks.read(samples, last, dataset=a_dataset([4]))


def test_samples_after_terminal_steps_have_no_validation_loss():
    samples, last = some_samples(a_table([4], supervised=[1])), np.array([1, 2, 3])
    frames = Frames.decode(samples, a_dataset([4]), np.arange(4))
    held = HeldOut.read(samples, last, dataset=a_dataset([4]), frames=frames)
    with pytest.raises(DataError, match=r"train\.validation_samples: expected actions .* among the 3 chosen"):
        ValidationOrder(held, seed=0, num_times=2)
