import itertools

import numpy as np
import pytest
import torch
from batches import a_spec
from builders import ArrayDataset, make_episode
from bundles import statistics

from vla import keyed
from vla.augmentation import AugmentConfig
from vla.data.episodes import EpisodeTable
from vla.data.frames import Frames
from vla.data.loader import TrainingOrder, ValidationOrder, read_samples
from vla.data.windows import Windows
from vla.errors import ConfigError, DataError
from vla.models.flow_matching import time_from_uniform
from vla.normalization import NormalizationConfig, NormStats
from vla.transforms import Processor, Tokenize, TransformsConfig

LENGTHS = (5, 7, 4)
TEXTS = ("open the drawer", "close the drawer", "open the drawer")


def a_table(lengths=LENGTHS) -> EpisodeTable:
    return EpisodeTable(
        episode_id_E=np.arange(len(lengths)),
        uid_E=np.array([keyed.uid("arrays", row) for row in range(len(lengths))]),
        length_E=np.array(lengths),
        instructions=tuple(sorted(set(TEXTS))),
        instruction_E=np.array([1, 0, 1][: len(lengths)]),
        digest="0",
    )


@pytest.fixture
def dataset():
    episodes = [make_episode(n, seed=row, instruction=TEXTS[row]) for row, n in enumerate(LENGTHS)]
    return ArrayDataset(episodes)


@pytest.fixture
def processor():
    cfg = TransformsConfig(
        image_size=(16, 16),
        max_tokens=4,
        normalization=NormalizationConfig(state="mean_std", actions="min_max"),
        augment=AugmentConfig(shift_px=2),
    )
    stats = NormStats(statistics(3), statistics(2), {})
    return Processor.make(cfg, ("front", "wrist"), stats, Tokenize.train(TEXTS, 4))


def open_frames(folder, dataset, processor, **changes) -> Frames:
    settings = {"identity": "one", "table": a_table(), "limit_bytes": 10**9, **changes}
    return Frames.open(folder, dataset=dataset, processor=processor, **settings)


@pytest.fixture
def samples(tmp_path, dataset, processor):
    frames = open_frames(tmp_path, dataset, processor)
    spec = a_spec(horizon=3, action_dim=2, views=("front", "wrist"))
    windows = Windows.make(np.array(LENGTHS), spec)
    return read_samples(a_table(), dataset=dataset, processor=processor, windows=windows, frames=frames)


def an_order(samples, *, shift_px=2, seed=0, batch_size=4) -> TrainingOrder:
    return TrainingOrder(samples, seed=seed, batch_size=batch_size, augment=AugmentConfig(shift_px=shift_px))


def test_an_epoch_presents_every_sample_at_most_once_and_epochs_differ(samples):
    order = an_order(samples, batch_size=5)
    assert order.steps_per_epoch == 3
    first, second = ([order.sample_indices(epoch * 3 + s).tolist() for s in range(3)] for epoch in (0, 1))
    assert len({index for batch in first for index in batch}) == 15
    assert first != second


def test_a_batch_is_a_function_of_seed_and_step_alone(samples):
    later = an_order(samples)
    for step in (7, 2, 5):
        later.batch(step, 0, 4)
    one, two = an_order(samples).batch(3, 0, 4), later.batch(3, 0, 4)
    for name in ("actions_BPHA", "noise_BPHA", "time_BPH", "sample_uid_B", "weight_BPHA"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert torch.equal(one.obs.images_BTVCYX, two.obs.images_BTVCYX)
    assert not torch.equal(one.noise_BPHA, an_order(samples, seed=1).batch(3, 0, 4).noise_BPHA)


@pytest.mark.parametrize("cuts", [[0, 4], [0, 2, 4], [0, 1, 3, 4]])
def test_slices_of_a_step_are_the_same_samples_noise_and_augmentation_however_it_is_cut(samples, cuts):
    order = an_order(samples)
    whole = order.batch(6, 0, 4)
    parts = [order.batch(6, a, b) for a, b in itertools.pairwise(cuts)]
    for name in ("noise_BPHA", "time_BPH", "sample_uid_B", "actions_BPHA"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert torch.equal(torch.cat([part.obs.images_BTVCYX for part in parts]), whole.obs.images_BTVCYX)
    assert {part.weight_total for part in parts} == {float(whole.weight_BPHA.sum())}


def test_presentations_of_one_sample_in_two_epochs_have_different_noise_and_time(samples):
    order = an_order(samples, batch_size=16)
    first, second = order.batch(0, 0, 16), order.batch(1, 0, 16)
    row = (second.sample_uid_B == first.sample_uid_B[0]).nonzero()[0, 0]
    assert not torch.equal(first.noise_BPHA[0], second.noise_BPHA[row])
    assert first.time_BPH[0, 0, 0] != second.time_BPH[row, 0, 0]


def test_noise_and_time_are_the_keyed_streams_of_the_presentation(samples):
    batch = an_order(samples).batch(3, 1, 2)
    np.testing.assert_array_equal(batch.noise_BPHA[0].numpy(), keyed.normal(0, "noise", 13, shape=(1, 3, 2)))
    assert batch.time_BPH[0, 0].tolist() == [time_from_uniform(keyed.uniform(0, "time", 13, count=1))[0]] * 3


def test_a_batch_holds_the_normalised_steps_and_frames_of_its_samples(samples, dataset, processor):
    order = an_order(samples, shift_px=0)
    batch = order.batch(0, 0, 4)
    for row, index in enumerate(order.sample_indices(0)):
        episode, step = (int(value[0]) for value in samples.windows.locate(np.array([index])))
        steps = dataset.steps(episode)
        expected = processor.state.forward(steps.state_TS[step])
        np.testing.assert_array_equal(batch.obs.state_BTS[row, 0].numpy(), expected)
        chunk = processor.actions.forward(steps.actions_TA[np.minimum(step + np.arange(3), len(steps) - 1)])
        np.testing.assert_array_equal(batch.actions_BPHA[row, 0].numpy(), chunk)
        tokens, is_pad = processor.tokenize(TEXTS[episode])
        assert batch.obs.tokens_BTL[row, 0].tolist() == tokens.tolist()
        assert batch.obs.token_is_pad_BTL[row, 0].tolist() == is_pad.tolist()
        images = processor.images({view: dataset.images(episode, view) for view in ("front", "wrist")})
        np.testing.assert_array_equal(batch.obs.images_BTVCYX[row, 0].numpy(), images[step])


def test_chunk_weights_are_counted_without_reading_the_chunks(samples):
    indices = np.arange(len(samples))
    # Episodes of 5, 7 and 4 steps with chunks of 3: all steps count 3 but the last two of each, 2 and 1; 2 dims.
    assert samples.chunk_weight(indices) == 2 * (3 * 16 - 3 * 3)


def test_a_batch_larger_than_the_train_split_is_refused(samples):
    with pytest.raises(ConfigError, match="at most the 16 samples"):
        an_order(samples, batch_size=17)


def test_validation_batches_depend_on_no_cut_and_hold_each_time_once_per_sample(samples):
    order = ValidationOrder(samples, seed=0, num_samples=6, num_times=2)
    whole = order.batch(0, len(order))
    parts = [order.batch(first, min(first + 5, len(order))) for first in range(0, len(order), 5)]
    assert len(order) == 12
    assert torch.equal(torch.cat([part.noise_BPHA for part in parts]), whole.noise_BPHA)
    assert whole.weight_total == pytest.approx(float(whole.weight_BPHA.sum()))
    times = whole.time_BPH[:, 0, 0].reshape(6, 2)
    assert (times == times[0]).all()
    assert times[0, 0] < times[0, 1]


def test_the_validation_subset_is_chosen_by_identity_not_by_place(samples):
    chosen = ValidationOrder(samples, seed=0, num_samples=6, num_times=1)
    larger = ValidationOrder(samples, seed=5, num_samples=9, num_times=1)
    assert set(chosen.indices) < set(larger.indices)


def test_frames_are_decoded_once_and_shared(tmp_path, dataset, processor, monkeypatch):
    first = open_frames(tmp_path, dataset, processor)
    monkeypatch.setattr(dataset, "images", None)
    again = open_frames(tmp_path, dataset, processor)
    np.testing.assert_array_equal(first.pixels_NVCYX, again.pixels_NVCYX)
    assert first.pixels_NVCYX.shape == (16, 2, 3, 16, 16)


def test_frames_of_changed_data_are_decoded_again(tmp_path, dataset, processor):
    open_frames(tmp_path, dataset, processor)
    others = ArrayDataset([make_episode(n, seed=9 + row) for row, n in enumerate(LENGTHS)])
    found = open_frames(tmp_path, others, processor, identity="two").pixels_NVCYX
    expected = processor.images({view: others.images(0, view) for view in ("front", "wrist")})
    np.testing.assert_array_equal(found[:5], expected)


def test_frames_beyond_the_limit_are_refused_with_both_numbers(tmp_path, dataset, processor):
    with pytest.raises(ConfigError, match=r"execution.cache_bytes: expected room for 24,576 bytes.* found 1,000"):
        open_frames(tmp_path, dataset, processor, limit_bytes=1000)


def test_a_failed_decoding_leaves_no_file_behind(tmp_path, processor):
    episodes = [make_episode(n, seed=row) for row, n in enumerate(LENGTHS)]
    broken = make_episode(4, image_errors={"wrist": "episode 2: damaged"})
    with pytest.raises(DataError, match="episode 2: damaged"):
        open_frames(tmp_path, ArrayDataset([*episodes[:2], broken]), processor)
    assert [item.name for item in tmp_path.iterdir()] == ["lock"]
