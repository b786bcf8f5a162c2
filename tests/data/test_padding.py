"""Batches of a policy that is wider than the data's actions and reads the state."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from bundles import a_bundle
from forks import POLICIES
from splits import LENGTHS, TEXTS, a_dataset, a_loader_spec, a_processor, a_table, some_samples

import vla.policies
from vla.action_errors import ActionScale
from vla.augmentation import AugmentConfig
from vla.data.frames import Frames
from vla.data.held_out import ActionOrder, Chunks, HeldOut, ValidationOrder, held_out
from vla.data.loader import Resident, TrainingOrder
from vla.data.order import FullOrder
from vla.data.samples import Samples, read_numbers
from vla.errors import ConfigError
from vla.evaluation import playback
from vla.evaluation.runner import PolicyRunner
from vla.models import inference
from vla.terms import Sensing
from vla.tokenization import Tokenize

PADDED = {"action_dim": 5, "padded_action_dims": 3}
"""Of `a_dataset`'s two action dimensions."""


def training_batch(samples: Samples, tmp_path, *, batch_size: int = 4):
    frames = Frames.open(tmp_path, samples, a_dataset(), identity="one", limit_bytes=10**9)
    order = FullOrder(samples.table, seed=0, batch_size=batch_size)
    supply = Resident.read(order, samples, a_dataset(), frames)
    augment = AugmentConfig(shift_px=0)
    training = TrainingOrder(samples, order, supply, seed=0, batch_size=batch_size, augment=augment)
    return training.batch(1, 0, batch_size)


def read_held_out(samples: Samples, count: int = 16) -> HeldOut:
    chosen = held_out(samples, count)
    return HeldOut.read(samples, chosen, dataset=a_dataset(), frames=Frames.decode(samples, a_dataset(), chosen))


@pytest.mark.parametrize("supervise_padded", [False, True])
def test_padded_dimensions_are_0_with_noise_and_count_where_the_user_says_so(tmp_path, supervise_padded):
    padded = training_batch(some_samples(**PADDED, supervise_padded=supervise_padded), tmp_path)
    plain = training_batch(some_samples(supervise_padded=supervise_padded), tmp_path)
    assert padded.actions_BPHA.shape == padded.noise_BPHA.shape == padded.weight_BPHA.shape == (4, 1, 3, 5)
    assert torch.equal(padded.actions_BPHA[..., :2], plain.actions_BPHA)
    assert torch.equal(padded.weight_BPHA[..., :2], plain.weight_BPHA)
    assert not padded.actions_BPHA[..., 2:].any()
    assert padded.noise_BPHA[..., 2:].std() > 0.5
    assert bool((padded.weight_BPHA[..., 2:] == float(supervise_padded)).all())
    assert padded.weight_total == float(padded.weight_BPHA.sum())
    assert torch.equal(padded.time_BPH, plain.time_BPH)


def test_the_validation_loss_is_over_the_weights_of_its_batches():
    for supervise_padded, dims in ((False, 2), (True, 5)):
        order = ValidationOrder(
            read_held_out(some_samples(**PADDED, supervise_padded=supervise_padded)), seed=0, num_times=2
        )
        batch = order.batch(0, len(order))
        assert batch.actions_BPHA.shape == (32, 1, 3, 5)
        assert order.weight_total == float(batch.weight_BPHA.sum())
        assert batch.weight_BPHA[0, 0, 0].sum() == dims


def test_errors_of_sampled_actions_are_those_of_the_real_dimensions():
    samples = some_samples(**PADDED)
    held = read_held_out(samples)
    chunks = Chunks.read(samples, held.sample_K, dataset=a_dataset())
    scale = ActionScale(np.array([0.5, 2.0]), np.array([True, True]))
    order = ActionOrder(held, chunks, scale, 0, 2)
    _, noise_BHA = order.batch(0, 16)
    assert noise_BHA.shape == (16, 3, 5)
    learned = np.pad(held.numbers.actions_BPHA[:, -1], [(0, 0), (0, 0), (0, 3)], constant_values=7)
    assert order.errors(0, 16, learned).mae == pytest.approx(0, abs=1e-6)


# The state in words.


def reading_state(max_tokens: int = 20, **spec) -> Samples:
    processor = replace(a_processor(), tokenize=Tokenize.train(TEXTS, max_tokens, prompt="pi05"))
    return Samples.make(a_table(), a_loader_spec(**spec), processor, supervise_padded=False)


def test_each_step_of_a_window_reads_its_own_state():
    samples = reading_state(window=2)
    chosen = np.array([6, 4, 15])  # steps 1 of episode 1, 4 of episode 0 and 3 of episode 2
    numbers = read_numbers(samples, a_dataset(), chosen)
    ids_BTL, is_pad_BTL = samples.tokens(chosen, numbers.state_BTS)
    for row, episode in enumerate((1, 0, 2)):
        for step in (0, 1):
            ids, is_pad = samples.processor.tokenize(TEXTS[episode], numbers.state_BTS[row, step])
            assert ids_BTL[row, step].tolist() == ids.tolist()
            assert is_pad_BTL[row, step].tolist() == is_pad.tolist()
    assert not np.array_equal(ids_BTL[0, 0], ids_BTL[0, 1])


def test_a_prompt_that_some_state_makes_too_long_is_refused_before_training():
    with pytest.raises(ConfigError, match=r"6 of them for the 3 numbers of the state"):
        reading_state(max_tokens=16)


# As a policy of the menu.


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(vla.policies, "__path__", [*vla.policies.__path__, str(POLICIES)])
    return a_bundle(tmp_path / "policy", policy="padded_vla", max_tokens=20, instructions=TEXTS)


def sensing(episode: int, step: int) -> Sensing:
    dataset = a_dataset()
    images = {view: dataset.images(episode, view)[step] for view in ("front", "wrist")}
    return Sensing(images, dataset.steps(episode).state_TS[step], 0.0)


def test_training_and_inference_read_the_same_tokens_of_the_same_state(bundle):
    samples = Samples.make(a_table(), bundle.spec, bundle.processor, supervise_padded=False)
    everything = np.arange(sum(LENGTHS))
    trained, _ = samples.tokens(everything, read_numbers(samples, a_dataset(), everything).state_BTS)
    steps = [(episode, step) for episode, length in enumerate(LENGTHS) for step in range(length)]
    sensed = [sensing(*place) for place in steps]
    acting = inference.observe(bundle, sensed, [TEXTS[episode] for episode, _ in steps])
    np.testing.assert_array_equal(trained, acting.tokens_BTL.numpy())
    assert len(np.unique(trained[:, 0], axis=0)) == len(everything)


def test_actions_that_are_handed_out_have_the_robot_s_dimensions(bundle):
    assert (bundle.spec.action_dim, bundle.spec.real_action_dim) == (5, 2)
    assert inference.predict_alone(bundle, [sensing(0, 0)], TEXTS[:1], seed=0).shape == (1, 4, 2)
    runner = PolicyRunner(bundle, execute_horizon=2, seed=0)
    runner.reset(TEXTS[:2], [("drawer", 0), ("drawer", 1)])
    runner.sense([sensing(0, 0), sensing(1, 0)])
    assert runner.next_actions().shape == (2, 2)
    played = playback.play(bundle, dataset=a_dataset(), table=a_table(), side_by_side=2, num_steps=2, seed=0)
    assert [chunks.shape for _, chunks in played] == [(7, 4, 2), (5, 4, 2), (4, 4, 2)]


def test_the_state_alone_decides_what_is_read(bundle):
    first, other = (inference.observe(bundle, [sensing(0, step)], TEXTS[:1]).tokens_BTL for step in (0, 1))
    assert not torch.equal(first, other)
    assert bundle.spec.prompt == bundle.processor.tokenize.prompt == "pi05"
