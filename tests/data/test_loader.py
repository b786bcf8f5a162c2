import itertools

import numpy as np
import pytest
import torch
from splits import LENGTHS, TEXTS, a_dataset, some_samples

from vla import keyed
from vla.augmentation import AugmentConfig, shifted, shifts
from vla.data.frames import Frames
from vla.data.lanes import Lanes
from vla.data.loader import Resident, TrainingOrder
from vla.data.order import BlocksOrder, FullOrder
from vla.errors import ConfigError
from vla.models.flow_matching import time_from_uniform


@pytest.fixture
def dataset():
    return a_dataset()


@pytest.fixture
def samples():
    return some_samples()


@pytest.fixture
def make_order(tmp_path, dataset, samples):
    """Makes training orders over the same frames."""
    frames = Frames.open(tmp_path, samples, dataset, identity="one", limit_bytes=10**9)

    def make(*, seed: int = 0, batch_size: int = 4, **augment) -> TrainingOrder:
        order = FullOrder(samples.table, seed=seed, batch_size=batch_size)
        supply = Resident.read(order, samples, dataset, frames)
        config = AugmentConfig(**{"shift_px": 2, **augment})
        return TrainingOrder(samples, order, supply, seed=seed, batch_size=batch_size, augment=config)

    return make


def in_blocks(dataset, samples, *, batch_size: int = 4, shift_px: int = 2) -> TrainingOrder:
    order = BlocksOrder(samples.table, seed=0, batch_size=batch_size, buffer_steps=3)
    lanes = Lanes(order, samples, [dataset], limit_bytes=10**9)
    augment = AugmentConfig(shift_px=shift_px)
    return TrainingOrder(samples, order, lanes, seed=0, batch_size=batch_size, augment=augment)


NUMBERS = ("actions_BPHA", "noise_BPHA", "time_BPH", "sample_uid_B", "weight_BPHA")


def assert_equal(one, two) -> None:
    for name in NUMBERS:
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    for name in ("images_BTVCYX", "state_BTS", "tokens_BTL", "token_is_pad_BTL", "step_is_pad_BT", "time_BT"):
        assert torch.equal(getattr(one.obs, name), getattr(two.obs, name)), name


def test_an_epoch_presents_every_sample_at_most_once_and_epochs_differ(make_order):
    order = make_order(batch_size=5)
    assert order.steps_per_epoch == 3
    first, second = ([order.sample_indices(epoch * 3 + s).tolist() for s in range(3)] for epoch in (0, 1))
    assert len({index for batch in first for index in batch}) == 15
    assert first != second


def test_a_batch_is_a_function_of_seed_and_step_alone(make_order):
    later = make_order()
    for step in (7, 2, 5):
        later.batch(step, 0, 4)
    one, two = make_order().batch(3, 0, 4), later.batch(3, 0, 4)
    assert_equal(one, two)
    assert not torch.equal(one.noise_BPHA, make_order(seed=1).batch(3, 0, 4).noise_BPHA)


@pytest.mark.parametrize("cuts", [[0, 4], [0, 2, 4], [0, 1, 3, 4]])
@pytest.mark.parametrize("kind", ["full", "blocks"])
def test_slices_of_a_step_are_the_same_samples_noise_and_augmentation_however_it_is_cut(
    kind, cuts, make_order, dataset, samples
):
    order = make_order() if kind == "full" else in_blocks(dataset, samples)
    whole = order.batch(6, 0, 4)
    parts = [order.batch(6, a, b) for a, b in itertools.pairwise(cuts)]
    for name in ("noise_BPHA", "time_BPH", "sample_uid_B", "actions_BPHA"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert torch.equal(torch.cat([part.obs.images_BTVCYX for part in parts]), whole.obs.images_BTVCYX)
    assert {part.weight_total for part in parts} == {float(whole.weight_BPHA.sum())}
    order.close()


def test_presentations_of_one_sample_in_two_epochs_have_different_noise_and_time(make_order):
    order = make_order(batch_size=16)
    first, second = order.batch(0, 0, 16), order.batch(1, 0, 16)
    row = (second.sample_uid_B == first.sample_uid_B[0]).nonzero()[0, 0]
    assert not torch.equal(first.noise_BPHA[0], second.noise_BPHA[row])
    assert first.time_BPH[0, 0, 0] != second.time_BPH[row, 0, 0]


def test_noise_and_time_are_the_keyed_streams_of_the_presentation(make_order):
    batch = make_order().batch(3, 1, 2)
    np.testing.assert_array_equal(batch.noise_BPHA[0].numpy(), keyed.normal(0, "noise", 13, shape=(1, 3, 2)))
    assert batch.time_BPH[0, 0].tolist() == [time_from_uniform(keyed.uniform(0, "time", 13, count=1))[0]] * 3


@pytest.mark.parametrize("kind", ["full", "blocks"])
def test_a_batch_holds_the_normalised_steps_and_frames_of_its_samples(kind, make_order, dataset, samples):
    order = make_order(shift_px=0) if kind == "full" else in_blocks(dataset, samples, shift_px=0)
    processor = samples.processor
    batch = order.batch(2, 0, 4)
    for row, index in enumerate(order.sample_indices(2)):
        episode, step = (int(value[0]) for value in samples.windows.locate(np.array([index])))
        steps = dataset.steps(episode)
        expected = processor.state.forward(steps.state_TS[step])
        np.testing.assert_array_equal(batch.obs.state_BTS[row, 0].numpy(), expected)
        chunk = processor.actions.forward(steps.actions_TA[np.minimum(step + np.arange(3), len(steps) - 1)])
        np.testing.assert_array_equal(batch.actions_BPHA[row, 0].numpy(), chunk)
        real = (step + np.arange(3) < LENGTHS[episode]).astype(np.float32)
        assert batch.weight_BPHA[row, 0].tolist() == np.stack([real, real], axis=1).tolist()
        tokens, is_pad = processor.tokenize(TEXTS[episode])
        assert batch.obs.tokens_BTL[row, 0].tolist() == tokens.tolist()
        assert batch.obs.token_is_pad_BTL[row, 0].tolist() == is_pad.tolist()
        images = processor.images({view: dataset.images(episode, view) for view in ("front", "wrist")})
        np.testing.assert_array_equal(batch.obs.images_BTVCYX[row, 0].numpy(), images[step])
        assert batch.sample_uid_B[row] == samples.table.uid_E[episode] + step
    order.close()


def test_images_are_augmented_by_the_draw_of_their_presentation(make_order):
    plain, augmented = make_order(shift_px=0).batch(3, 0, 4), make_order(shift_px=2).batch(3, 0, 4)
    for row, presentation in enumerate(range(12, 16)):
        for view, offset in enumerate(shifts(AugmentConfig(shift_px=2), 0, presentation, 2)):
            given = plain.obs.images_BTVCYX[row, :, view].numpy()
            np.testing.assert_array_equal(augmented.obs.images_BTVCYX[row, :, view].numpy(), shifted(given, offset))


def test_what_is_recorded_is_not_changed_by_augmentation(make_order):
    order = make_order(shift_px=0, brightness=0.5)
    assert_equal(order.batch(3, 0, 4), order.batch(3, 0, 4))


def test_colour_only_must_name_views(make_order):
    with pytest.raises(ConfigError, match=r"colour_only: expected some of front, wrist, found 'wrst'.*'wrist'"):
        make_order(colour_only=("wrst",))


def test_samples_are_named_for_people(make_order, samples):
    order = make_order()
    episode, step = samples.windows.locate(order.sample_indices(1))
    expected = [f"arrays episode {row} step {at}" for row, at in zip(episode, step, strict=True)]
    assert order.names(1, 1, 3) == expected[1:3]


def test_samples_and_seconds_of_making_batches_are_counted(make_order, dataset, samples):
    for order in (make_order(), in_blocks(dataset, samples)):
        order.batch(0, 0, 4)
        order.batch(1, 2, 4)
        assert order.made == 6
        assert order.seconds > 0
        order.close()
