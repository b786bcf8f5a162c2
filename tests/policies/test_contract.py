"""The policy contract, checked for every file of vla/policies."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import OPTIMIZER, SETTINGS, fake_batch, tiny_policy
from ranks import answers

from vla import registry
from vla.training.distributed import Context
from vla.training.loop import weighted_error
from vla.training.optim import make_optimizer

POLICIES = registry.names("policies")


def test_every_policy_has_tiny_settings_here():
    assert sorted(SETTINGS) == POLICIES


@pytest.fixture(params=POLICIES)
def name(request):
    return request.param


def test_the_spec_has_the_prompt_that_the_settings_promise(name):
    _, spec = tiny_policy(name)
    assert spec.prompt == registry.find("policies", name).Config.prompt


def test_one_batch_can_be_overfitted(name):
    policy, spec = tiny_policy(name)
    batch = fake_batch(spec, 4)
    optimizer = make_optimizer(policy, OPTIMIZER)
    losses = []
    for _ in range(150):
        loss = weighted_error(policy(batch), batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_equal_seeds_give_equal_losses(name):
    losses = []
    for _ in range(2):
        policy, spec = tiny_policy(name, seed=3)
        batch = fake_batch(spec, 4)
        losses.append(weighted_error(policy(batch), batch).item())
    assert losses[0] == losses[1]


def test_micro_batches_add_up_to_the_whole_batch(name):
    policy, spec = tiny_policy(name)
    whole = fake_batch(spec, 6)
    expected = weighted_error(policy(whole), whole)
    expected.backward()
    trainable = {key: value for key, value in policy.named_parameters() if value.requires_grad}
    gradients = {key: value.grad.clone() for key, value in trainable.items()}
    policy.zero_grad()
    total = 0.0
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        micro = fake_batch(spec, 6, rows=part)
        loss = weighted_error(policy(micro), micro)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(expected.item(), rel=1e-5)
    for key, value in trainable.items():
        torch.testing.assert_close(value.grad, gradients[key], atol=1e-5, rtol=1e-4)


def test_two_ranks_of_two_micro_batches_learn_what_one_process_learns(name, tmp_path):
    policy, spec = tiny_policy(name)
    whole = fake_batch(spec, 6)
    weighted_error(policy(whole), whole).backward()

    def act(context: Context) -> dict[str, np.ndarray]:
        own, _ = tiny_policy(name)
        module = context.wrap(own)
        begin = 3 * context.rank
        for rows, wait in ((slice(begin, begin + 1), module.no_sync()), (slice(begin + 1, begin + 3), nullcontext())):
            micro = fake_batch(spec, 6, rows=rows)
            with wait:
                (context.world_size * weighted_error(module(micro), micro)).backward()
        return {key: value.grad.numpy() for key, value in own.named_parameters() if value.requires_grad}

    for found in answers(act, tmp_path):
        for key, gradient in found.items():
            expected = policy.get_parameter(key).grad
            torch.testing.assert_close(
                torch.from_numpy(gradient), expected, atol=1e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_targets_of_weight_zero_are_inert(name):
    policy, spec = tiny_policy(name)
    batch = fake_batch(spec, 4)
    weight = batch.weight_BPHA.clone()
    weight[:, :, -1] = 0.0
    batch = replace(batch, weight_BPHA=weight)
    # At flow time 1 a token's input is its noise alone, so that changing its action moves its target only.
    time = batch.time_BPH.clone()
    time[:, :, -1] = 1.0
    batch = replace(batch, time_BPH=time)
    actions = batch.actions_BPHA.clone()
    actions[:, :, -1] += 5.0
    other = replace(batch, actions_BPHA=actions)
    assert weighted_error(policy(batch), batch).item() == weighted_error(policy(other), other).item()


def test_sampled_actions_have_the_spec_s_shape_and_depend_on_the_noise(name):
    policy, spec = tiny_policy(name)
    policy.eval()
    obs = fake_batch(spec, 2).obs
    noise = torch.randn(2, spec.action_horizon, spec.action_dim)
    memory = policy.initial_memory(2, torch.device("cpu"))
    chunk, _ = policy.act(obs, memory, noise, 3)
    again, _ = policy.act(obs, memory, noise, 3)
    other, _ = policy.act(obs, memory, noise + 1, 3)
    assert chunk.shape == noise.shape
    assert torch.equal(chunk, again)
    assert not torch.equal(chunk, other)


def test_the_context_is_unchanged_after_ten_velocity_calls(name):
    policy, spec = tiny_policy(name)
    policy.eval()
    batch = fake_batch(spec, 2)
    with torch.no_grad():
        context = policy.encode(batch.obs, policy.initial_memory(2, torch.device("cpu"))).context
        noisy, time = torch.randn(2, spec.action_horizon, spec.action_dim), torch.rand(2, spec.action_horizon)
        first = policy.velocity(context, noisy, time)
        for _ in range(10):
            last = policy.velocity(context, noisy, time)
    assert torch.equal(first, last)


def test_acting_step_by_step_from_an_episode_start_is_acting_on_the_window(name):
    """At each step the window holds the first one again, as padding, for those before the episode."""
    policy, spec = tiny_policy(name)
    policy.eval()
    obs, last = fake_batch(spec, 2).obs, spec.window_steps - 1
    noise, device = torch.randn(2, spec.action_horizon, spec.action_dim), torch.device("cpu")
    memory = policy.initial_memory(2, device)
    for step in range(spec.window_steps):
        one = obs.each(lambda value, step=step: value[:, step : step + 1])
        streamed, memory = policy.act(one, memory, noise, 2)
        place = torch.arange(spec.window_steps) - (last - step)
        window = obs.each(lambda value, place=place: value[:, place.clamp(min=0)])
        window = replace(window, step_is_pad_BT=(place < 0).expand(2, -1))
        at_once, _ = policy.act(window, policy.initial_memory(2, device), noise, 2)
        torch.testing.assert_close(streamed, at_once, atol=1e-5, rtol=1e-5)


def test_padded_text_and_absent_cameras_change_nothing(name):
    policy, spec = tiny_policy(name)
    policy.eval()
    batch = fake_batch(spec, 2)
    is_pad = torch.zeros_like(batch.obs.token_is_pad_BTL)
    is_pad[..., -1] = True
    absent = torch.zeros_like(batch.obs.image_is_pad_BTV)
    absent[..., -1] = True
    obs = replace(batch.obs, token_is_pad_BTL=is_pad, image_is_pad_BTV=absent)
    tokens, images = obs.tokens_BTL.clone(), obs.images_BTVCYX.clone()
    tokens[..., -1] = (tokens[..., -1] + 1) % spec.vocabulary
    images[:, :, -1] = 255 - images[:, :, -1]
    changed = replace(obs, tokens_BTL=tokens, images_BTVCYX=images)
    errors = [policy(replace(batch, obs=each)).error_BPHA for each in (obs, changed)]
    torch.testing.assert_close(*errors)


def test_a_velocity_is_as_fine_as_float32_whatever_precision_it_was_computed_with(name):
    policy, spec = tiny_policy(name)
    batch = fake_batch(spec, 2)
    noisy, time = batch.noise_BPHA[:, 0], batch.time_BPH[:, 0]
    with torch.autocast("cpu", torch.bfloat16):
        context = policy.encode(batch.obs, policy.initial_memory(2, torch.device("cpu"))).context
        velocity = policy.velocity(context, noisy, time)
    assert velocity.dtype == torch.float32
    assert not torch.equal(velocity, velocity.bfloat16().float())


def test_the_instruction_decides_the_answer(name):
    policy, spec = tiny_policy(name)
    batch = fake_batch(spec, 2)
    tokens = (batch.obs.tokens_BTL + 1) % spec.vocabulary
    other = replace(batch, obs=replace(batch.obs, tokens_BTL=tokens))
    assert not torch.equal(policy(batch).error_BPHA, policy(other).error_BPHA)


def test_weights_round_trip_through_a_state_dict(name):
    policy, spec = tiny_policy(name, seed=0)
    other, _ = tiny_policy(name, seed=1)
    batch = fake_batch(spec, 2)
    assert not torch.equal(policy(batch).error_BPHA, other(batch).error_BPHA)
    other.load_state_dict(policy.state_dict())
    assert torch.equal(policy(batch).error_BPHA, other(batch).error_BPHA)


def test_every_trainable_parameter_gets_a_gradient_and_no_other_does(name):
    """DDP waits for ever for a parameter that takes no part."""
    policy, spec = tiny_policy(name)
    batch = fake_batch(spec, 3)
    weighted_error(policy(batch), batch).backward()
    assert [key for key, value in policy.named_parameters() if value.requires_grad != (value.grad is not None)] == []
