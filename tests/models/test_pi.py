"""pi0 and pi0.5 against the numbers of the reference implementation, and against a forward pass of both streams."""

from dataclasses import replace

import pytest
import torch
from batches import fake_batch, tiny_policy
from golden_pi import HORIZON, golden, golden_policy, golden_prefix

from vla import registry
from vla.errors import ConfigError
from vla.models import flow_matching
from vla.models.attention import MASKED, time_features
from vla.models.gemma import KeysValues, Rotary, attend, gated, joined, positions
from vla.models.policy import Interface

NAMES = ("pi0", "pi05")
ATTENTIONS = ("sdpa", "eager")


def velocity_of(policy, tensors, prefix=None):
    """The velocity at the reference's noisy actions, and its target."""
    noise, actions, time = (tensors[f"inputs/{key}"] for key in ("noise", "actions", "time"))
    time_QH = time[:, None].expand(-1, HORIZON)
    noisy = flow_matching.interpolate(actions, noise, time_QH)
    prefix = prefix or golden_prefix(policy, tensors)
    return policy.velocity(prefix, noisy, time_QH), flow_matching.target_velocity(actions, noise)


def accumulated_times(steps):
    """The flow times of the reference, which adds -1 / steps in float32 from 1 on."""
    times = [torch.tensor(1.0)]
    for _ in range(steps - 1):
        times.append(times[-1] + torch.tensor(-1.0 / steps))
    return times


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_the_reference_s(name, attention):
    tensors, policy = golden(name), golden_policy(name, attention=attention)
    predicted, target = velocity_of(policy, tensors)
    loss = (predicted - target).square()
    torch.testing.assert_close(loss, tensors["expected/loss"], atol=1e-4, rtol=1e-5)
    loss.mean().backward()
    gradients = [value.grad for value in policy.parameters() if value.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    torch.testing.assert_close(norm, tensors["expected/grad_norm"], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("cached", [True, False], ids=["prefix once", "prefix every step"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_sampled_actions_are_the_reference_s(name, attention, cached):
    tensors, policy = golden(name), golden_policy(name, attention=attention)
    prefix = golden_prefix(policy, tensors)
    for steps in (4, 10):
        actions = tensors["inputs/noise"]
        for time in accumulated_times(steps):
            context = prefix if cached else golden_prefix(policy, tensors)
            actions = actions - policy.velocity(context, actions, time.expand(actions.shape[:2])) / steps
        torch.testing.assert_close(actions, tensors[f"expected/actions_{steps}_steps"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_exact_flow_times_differ_from_the_reference_by_its_own_rounding(name):
    """Ours are step / steps. At 4 both are exact; at 10 its sum is off by 1e-7, which periods of 4e-3 make 1e-4 of."""
    tensors, policy = golden(name), golden_policy(name)
    prefix = golden_prefix(policy, tensors)

    def field(noisy, time):
        return policy.velocity(prefix, noisy, torch.full(noisy.shape[:2], time))

    for steps, tolerance in ((4, 1e-4), (10, 1e-3)):
        actions = flow_matching.euler(field, tensors["inputs/noise"], steps)
        torch.testing.assert_close(actions, tensors[f"expected/actions_{steps}_steps"], atol=tolerance, rtol=0)


@pytest.mark.parametrize(("name", "tolerance"), [("pi0", 0.1), ("pi05", 0.02)])
@torch.no_grad()
def test_bfloat16_stays_near_float32(name, tolerance):
    """By the root mean square of the difference, as a part of the velocity's own.

    The reference's pi0 has random weights that make its velocity twenty times as steep as its actions.
    """
    tensors, policy = golden(name), golden_policy(name)
    exact, _ = velocity_of(policy, tensors)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = velocity_of(policy, tensors)
    assert rough.dtype == torch.float32
    error = (rough - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert 1e-4 < error < tolerance


def both_streams(policy, tensors):
    """The velocity by one forward pass of prefix and suffix side by side, under the mask of blocks.

    This is how the references train. In each layer the tokens of both streams are projected by their own weights, one
    attention runs over all of them, and each stream goes on by itself.
    """
    language, expert = policy.language, policy.expert
    noise, actions, time = (tensors[f"inputs/{key}"] for key in ("noise", "actions", "time"))
    time_QH = time[:, None].expand(-1, HORIZON)
    captured = {}
    original = type(language).forward

    def capture(module, x, rotary, mask):
        captured["x"] = x
        return original(module, x, rotary, mask)

    language.forward = lambda *given: capture(language, *given)
    prefix = golden_prefix(policy, tensors)
    del language.forward
    time_QHD = time_features(time_QH, policy.action_out.in_features, dtype=torch.float64)
    suffix = policy.suffix(prefix, flow_matching.interpolate(actions, noise, time_QH), time_QHD)
    n, s = prefix.is_pad_QN.shape[1], len(suffix.block_S)
    is_pad = torch.cat([prefix.is_pad_QN, torch.zeros(2, s, dtype=torch.bool)], dim=1)
    block = torch.cat([torch.zeros(n, dtype=torch.int64), 1 + suffix.block_S])
    hidden = is_pad[:, None, :] | (block[None, :, None] < block[None, None, :])
    mask = torch.zeros(hidden.shape).masked_fill(hidden, MASKED)[:, None]
    rotary = Rotary.at(positions(is_pad), policy.head_dim)
    streams = [captured["x"], suffix.tokens_QSD]
    for layers in zip(language.layers, expert.layers, strict=True):
        queries, offered, gates = [], [], []
        for x, layer, where in zip(streams, layers, (slice(0, n), slice(n, None)), strict=True):
            turn = Rotary(rotary.cos_B1NE[:, :, where], rotary.sin_B1NE[:, :, where])
            condition = suffix.condition_QSE if layer is layers[1] else None
            y, gate = layer.input_layernorm(x, condition)
            attn = layer.self_attn
            queries.append(turn.turn(attn.split(attn.q_proj(y))))
            offered.append(KeysValues(turn.turn(attn.split(attn.k_proj(y))), attn.split(attn.v_proj(y))))
            gates.append(gate)
        mixed = attend(torch.cat(queries, dim=2), joined(*offered), mask, "eager").split([n, s], dim=1)
        for index, layer in enumerate(layers):
            condition = suffix.condition_QSE if index else None
            x = gated(streams[index], layer.self_attn.o_proj(mixed[index]), gates[index])
            y, gate = layer.post_attention_layernorm(x, condition)
            streams[index] = gated(x, layer.mlp(y), gate)
    return policy.action_out(expert.norm(streams[1], suffix.condition_QSE)[0][:, -HORIZON:])


@pytest.mark.parametrize("name", NAMES)
def test_the_prefix_computed_first_equals_both_streams_side_by_side(name):
    tensors, policy = golden(name), golden_policy(name)
    apart, _ = velocity_of(policy, tensors)
    apart.square().mean().backward()
    gradients = {key: value.grad for key, value in policy.named_parameters() if value.grad is not None}
    policy.zero_grad()
    together = both_streams(policy, tensors)
    torch.testing.assert_close(apart, together, atol=1e-5, rtol=1e-5)
    together.square().mean().backward()
    for key, value in gradients.items():
        torch.testing.assert_close(value, policy.get_parameter(key).grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_an_absent_camera_is_as_if_it_were_not_in_the_data(name):
    policy, spec = tiny_policy(name)
    batch = fake_batch(spec, 2)
    absent = torch.tensor([False, True]).expand(2, 1, 2)
    masked = policy(replace(batch, obs=replace(batch.obs, image_is_pad_BTV=absent))).error_BPHA
    alone = replace(batch.obs, images_BTVCYX=batch.obs.images_BTVCYX[:, :, :1], image_is_pad_BTV=~absent[..., 1:])
    torch.testing.assert_close(masked, policy(replace(batch, obs=alone)).error_BPHA)


@torch.no_grad()
def test_pi0_s_state_token_does_not_see_the_actions_and_they_see_it():
    policy, spec = tiny_policy("pi0")
    batch = fake_batch(spec, 2)
    prefix = policy.encode(batch.obs, {}).context
    time = torch.full((2, spec.action_horizon), 0.5)
    actions, other = torch.zeros(2, spec.action_horizon, spec.action_dim), torch.ones(2, spec.action_horizon, 5)
    seen = []
    hook = policy.expert.layers[-1].register_forward_hook(lambda module, given, result: seen.append(result[0]))
    for noisy in (actions, other):
        policy.velocity(prefix, noisy, time)
    hook.remove()
    torch.testing.assert_close(seen[0][:, 0], seen[1][:, 0])
    changed = replace(prefix, state_QS=prefix.state_QS + 1)
    assert not torch.allclose(policy.velocity(prefix, actions, time), policy.velocity(changed, actions, time))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_every_action_token_has_its_own_flow_time(name):
    policy, spec = tiny_policy(name)
    prefix = policy.encode(fake_batch(spec, 1).obs, {}).context
    noisy, time = torch.ones(1, spec.action_horizon, spec.action_dim), torch.full((1, spec.action_horizon), 0.5)
    later = time.clone()
    later[:, 2] = 0.9
    moved = (policy.velocity(prefix, noisy, time) - policy.velocity(prefix, noisy, later)).abs().amax(dim=-1)[0]
    assert moved.argmax() == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_prefix_gets_no_gradient_and_changes_no_number(name):
    policy, spec = tiny_policy(name)
    frozen, _ = tiny_policy(name, freeze_vision_tower=True, freeze_language_model=True)
    frozen.load_state_dict(policy.state_dict())
    batch = fake_batch(spec, 2)
    loss = frozen(batch).error_BPHA
    assert torch.equal(loss, policy(batch).error_BPHA)
    loss.mean().backward()
    with_gradient = {key.split(".")[0] for key, value in frozen.named_parameters() if value.grad is not None}
    assert with_gradient & {"vision", "project", "language"} == set()
    assert "expert" in with_gradient


@pytest.mark.parametrize(("vision", "language"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("name", NAMES)
def test_frozen_parts_in_bfloat16_leave_the_others_in_float32_and_the_velocity_near(name, autocast, vision, language):
    frozen = {"freeze_vision_tower": vision, "freeze_language_model": language}
    exact, spec = tiny_policy(name, **frozen)
    rough, _ = tiny_policy(name, **frozen, frozen_dtype="bfloat16")
    rough.load_state_dict(exact.state_dict())
    resting = {part for part, rests in (("vision", vision), ("project", vision), ("language", language)) if rests}
    halved = {key.split(".")[0] for key, value in rough.named_parameters() if value.dtype == torch.bfloat16}
    assert halved == resting
    batch = fake_batch(spec, 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        errors = [policy(batch).error_BPHA for policy in (exact, rough)]
    assert errors[1].dtype == torch.float32
    torch.testing.assert_close(*errors, atol=0.1, rtol=0.1)
    errors[1].mean().backward()
    trained = [value for value in rough.parameters() if value.requires_grad]
    assert all(value.grad is not None and value.grad.dtype == torch.float32 for value in trained)


def test_a_frozen_tower_below_a_trained_language_model_leaves_the_text_trainable():
    policy, spec = tiny_policy("pi05", freeze_vision_tower=True)
    policy(fake_batch(spec, 2)).error_BPHA.mean().backward()
    assert policy.language.embed_tokens.weight.grad is not None
    assert policy.project.weight.grad is None


REAL = {
    "action_horizon": 50,
    "num_steps": 10,
    "max_action_dim": 32,
    "vision": "so400m",
    "language": "gemma_2b",
    "expert": "gemma_300m",
    "vocabulary": 257152,
    "attention": "sdpa",
    "freeze_vision_tower": False,
    "freeze_language_model": False,
}


def test_published_sizes_have_the_published_number_of_parameters():
    """Counted in LeRobot's pi0.5 of version 0.6.1, without its two unused output embeddings."""
    module = registry.find("policies", "pi05")
    cfg = module.Config.parse({"name": "pi05", **REAL}, where="tests")
    with torch.device("meta"):
        policy, _ = module.build(cfg, module.make_spec(cfg, Interface(("base",), (224, 224), 8, 7, 200, 257152)))

    def count(part):
        return sum(value.numel() for value in getattr(policy, part).parameters())

    assert count("vision") == 412_442_352
    assert count("project") == 2_361_344
    assert count("language") == 2_508_531_712
    assert count("expert") == 427_932_672
    assert policy.vision(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1, 256, 1152)


@pytest.mark.parametrize(
    ("changes", "interface", "message"),
    [
        ({"language": "gemma_2"}, {}, "language: expected sizes or one of gemma_2b, found 'gemma_2'. Did you mean"),
        ({"max_action_dim": 6}, {}, "policy.max_action_dim: expected at least the 7 action dimensions"),
        ({"vocabulary": 100}, {}, "policy.vocabulary: expected at least the 257152 ids"),
        ({}, {"image_size": (224, 210)}, r"transforms.image_size: expected a square of a multiple"),
        ({}, {"image_size": (225, 225)}, r"transforms.image_size: expected a square of a multiple"),
        (
            {"expert": {"width": 8, "depth": 18, "mlp_dim": 8, "heads": 8, "kv_heads": 1, "head_dim": 64}},
            {},
            "head_dim",
        ),
        (
            {"vision": {"width": 96, "depth": 2, "mlp_dim": 96, "heads": 5, "patch_size": 14}},
            {},
            "vision: expected a width that its 5 heads divide, found 96",
        ),
        (
            {"language": {"width": 8, "depth": 2, "mlp_dim": 8, "heads": 8, "kv_heads": 3, "head_dim": 8}},
            {},
            "language: expected heads that 3 kv_heads divide, found 8",
        ),
        (
            {"language": {"width": 8, "depth": 2, "mlp_dim": 8, "heads": 8, "kv_heads": 1, "head_dim": 7}},
            {},
            "language: expected an even head_dim, .* found 7",
        ),
    ],
)
def test_what_cannot_work_is_refused(changes, interface, message):
    module = registry.find("policies", "pi05")
    offered = {"views": ("base",), "image_size": (224, 224), "state_dim": 8, "action_dim": 7, "max_tokens": 200}
    with pytest.raises(ConfigError, match=message):
        module.make_spec(
            module.Config.parse({"name": "pi05", **REAL, **changes}, where="tests"),
            Interface(**{**offered, "vocabulary": 257152, **interface}),
        )
