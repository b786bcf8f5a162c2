"""paligemma_vla beyond the contract of all policies: its choices of pooling, head, freezing and adapters."""

from dataclasses import replace

import pytest
import torch
from batches import OPTIMIZER, PALIGEMMA, SQUARE, fake_batch, open_gates
from transformers import PaliGemmaForConditionalGeneration

from vla.errors import ConfigError
from vla.models import bundle
from vla.models.backbone_paligemma import model_config
from vla.policies.paligemma_vla import Config, build, make_spec
from vla.training.frozen import digest_of_tensors, frozen_parameters
from vla.training.loop import weighted_error
from vla.training.optim import make_optimizer

MLP = PALIGEMMA["head"]
TRANSFORMER = {"type": "transformer", "width": 16, "heads": 2, "layers": 1, "dropout": 0.0}
HEADS = pytest.mark.parametrize("head", [MLP, TRANSFORMER], ids=["mlp", "transformer"])
FROZEN = {"freeze_vision_tower": True, "freeze_language_model": True}
LORA = {**FROZEN, "lora": {"rank": 2, "alpha": 4, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}}
FASTER = OPTIMIZER.model_copy(update={"lr": 1e-2, "weight_decay": 0.01})


def parse(**changes) -> Config:
    return Config.parse({"name": "paligemma_vla", **PALIGEMMA, **changes}, where="tests")


def a_policy(*, interface=SQUARE, seed=0, **changes):
    cfg = parse(**changes)
    spec = make_spec(cfg, interface)
    torch.manual_seed(seed)
    policy, _ = build(cfg, spec)
    open_gates(policy)
    return policy, spec


def loss_of(policy, batch) -> float:
    return weighted_error(policy(batch), batch).item()


def train(policy, batch, steps=3):
    optimizer = make_optimizer(policy, FASTER)
    policy.train()
    for _ in range(steps):
        weighted_error(policy(batch), batch).backward()
        optimizer.step()
        optimizer.zero_grad()


def changed_by_training(policy, batch) -> set[str]:
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    train(policy, batch)
    return {name for name, value in policy.state_dict().items() if not torch.equal(value, before[name])}


@HEADS
@pytest.mark.parametrize("pool", ["mean", "last", "query"])
@pytest.mark.parametrize("views", [("front",), ("front", "wrist")], ids=["one camera", "two cameras"])
@pytest.mark.parametrize("use_state", [True, False], ids=["state", "no state"])
def test_every_choice_trains_all_that_it_has(head, pool, views, use_state):
    interface = replace(SQUARE, views=views)
    policy, spec = a_policy(head=head, pool=pool, use_state_input=use_state, interface=interface)
    batch = fake_batch(spec, 2)
    before = loss_of(policy, batch)
    weighted_error(policy(batch), batch).backward()
    assert [name for name, value in policy.named_parameters() if value.requires_grad != (value.grad is not None)] == []
    policy.zero_grad()
    train(policy, batch, steps=5)
    assert loss_of(policy, batch) < before


@HEADS
def test_acting_step_by_step_is_acting_on_the_last_steps(head):
    """Five steps of an episode one by one, and the last three of them at once."""
    policy, spec = a_policy(head=head)
    policy.eval()
    obs = fake_batch(replace(spec, window_steps=5), 2).obs
    noise, device = torch.randn(2, spec.action_horizon, spec.action_dim), torch.device("cpu")
    memory = policy.initial_memory(2, device)
    for step in range(5):
        one = obs.each(lambda value, step=step: value[:, step : step + 1])
        streamed, memory = policy.act(one, memory, noise, 2)
    window = obs.each(lambda value: value[:, 2:])
    at_once, _ = policy.act(window, policy.initial_memory(2, device), noise, 2)
    torch.testing.assert_close(streamed, at_once, atol=1e-5, rtol=1e-5)


@HEADS
def test_a_step_before_the_episode_is_not_seen_and_an_earlier_one_is(head):
    policy, spec = a_policy(head=head)
    batch = fake_batch(spec, 2)
    other = batch.obs.images_BTVCYX.clone()
    other[:, 0] = 255 - other[:, 0]

    def losses(is_pad):
        padded = batch.obs.step_is_pad_BT.clone()
        padded[:, 0] = is_pad
        obs = replace(batch.obs, step_is_pad_BT=padded)
        pair = (obs, replace(obs, images_BTVCYX=other))
        return [loss_of(policy, replace(batch, obs=each)) for each in pair]

    assert losses(True)[0] == losses(True)[1]
    assert losses(False)[0] != losses(False)[1]


@HEADS
def test_the_order_of_earlier_steps_matters(head):
    """An embedding of age says which was the earlier one."""
    policy, spec = a_policy(head=head, window_steps=3)
    batch = fake_batch(spec, 2)
    swapped = batch.obs.each(lambda value: value[:, [1, 0, 2]])
    assert loss_of(policy, batch) != pytest.approx(loss_of(policy, replace(batch, obs=swapped)), rel=1e-6)


def test_a_window_of_one_step_needs_no_memory():
    policy, spec = a_policy(window_steps=1)
    memory = policy.initial_memory(2, torch.device("cpu"))
    _, after = policy.act(fake_batch(spec, 2).obs, memory, torch.zeros(2, 4, 2), 1)
    assert {name: value.shape[1] for name, value in after.items()} == {"steps": 0, "step_is_pad": 0}


def test_without_state_input_the_state_decides_nothing():
    policy, spec = a_policy(use_state_input=False)
    batch = fake_batch(spec, 2)
    other = replace(batch, obs=replace(batch.obs, state_BTS=batch.obs.state_BTS + 1))
    assert loss_of(policy, batch) == loss_of(policy, other)


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        (FROZEN, ()),
        ({**FROZEN, "freeze_vision_tower": False}, ("vision_tower.", "multi_modal_projector.")),
        ({**FROZEN, "freeze_language_model": False}, ("language_model.",)),
        ({**FROZEN, "unfreeze_last_layers": 1}, ("language_model.layers.1.", "language_model.norm.")),
        (LORA, (".lora_A.", ".lora_B.")),
    ],
    ids=["all frozen", "vision", "language", "last layer", "LoRA"],
)
def test_training_moves_what_is_not_frozen_and_nothing_else(changes, trained):
    policy, spec = a_policy(**changes)
    digest = digest_of_tensors(frozen_parameters(policy))
    changed = changed_by_training(policy, fake_batch(spec, 2))
    inside = {name for name, _ in policy.named_parameters() if name.startswith("backbone.")}
    expected = {name for name in inside if any(part in name for part in trained)}
    assert {name for name in changed if name.startswith("backbone.")} == expected
    assert {name for name, value in policy.named_parameters() if value.requires_grad} == changed
    assert digest_of_tensors(frozen_parameters(policy)) == digest
    assert [name for name in inside - expected if policy.get_parameter(name).grad is not None] == []


def test_a_frozen_backbone_in_bfloat16_trains_a_float32_head():
    policy, spec = a_policy(**FROZEN, backbone={**PALIGEMMA["backbone"], "dtype": "torch.bfloat16"})
    types = {(name.startswith("backbone."), value.dtype) for name, value in policy.named_parameters()}
    assert types == {(True, torch.bfloat16), (False, torch.float32)}
    batch = fake_batch(spec, 2)
    before = loss_of(policy, batch)
    train(policy, batch, steps=5)
    assert loss_of(policy, batch) < before


@pytest.mark.parametrize("changes", [{}, LORA], ids=["whole", "LoRA on bfloat16"])
def test_autocast_to_bfloat16_is_close_to_float32(changes):
    dtype = "bfloat16" if changes else "float32"
    policy, spec = a_policy(**changes, backbone={**PALIGEMMA["backbone"], "dtype": dtype})
    policy.eval()
    batch = fake_batch(spec, 2)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = loss_of(policy, batch)
    assert narrow == pytest.approx(loss_of(policy, batch), rel=0.05)


def test_paligemma_2_reads_both_cameras_and_the_text():
    text = {**PALIGEMMA["backbone"]["text"], "family": "gemma2", "query_scale": 8}
    policy, spec = a_policy(backbone={**PALIGEMMA["backbone"], "text": text})
    batch = fake_batch(spec, 2)
    losses = {loss_of(policy, batch)}
    for view in (0, 1):
        images = batch.obs.images_BTVCYX.clone()
        images[:, -1, view] = 255 - images[:, -1, view]
        losses.add(loss_of(policy, replace(batch, obs=replace(batch.obs, images_BTVCYX=images))))
    tokens = (batch.obs.tokens_BTL + 1) % spec.vocabulary
    losses.add(loss_of(policy, replace(batch, obs=replace(batch.obs, tokens_BTL=tokens))))
    assert len(losses) == 4
    weighted_error(policy(batch), batch).backward()
    assert [name for name, value in policy.named_parameters() if value.requires_grad != (value.grad is not None)] == []


def test_groups_have_learning_rates_of_their_own():
    policy, _ = a_policy()
    optimizer = make_optimizer(policy, FASTER.model_copy(update={"lr_scales": {"backbone": 0.1}}))
    groups = {}
    for group in optimizer.param_groups:
        groups.setdefault(group["name"], set()).add((group["lr_scale"], group["weight_decay"]))
    assert groups == {"backbone": {(0.1, 0.01), (0.1, 0.0)}, "head": {(1.0, 0.01), (1.0, 0.0)}}


def test_a_frozen_backbone_leaves_one_group():
    policy, _ = a_policy(**FROZEN)
    assert {group.name for group in policy.parameter_groups() if group.parameters} == {"head"}


@HEADS
def test_activation_checkpointing_covers_what_gradients_pass_through(head):
    policy, _ = a_policy(head=head)
    text, own = policy.backbone.text_blocks, 0 if head is MLP else 1
    assert len(policy.checkpointed_blocks()) == len(text) + own


def test_a_source_gives_sizes_and_weights_and_the_result_needs_it_no_more(tmp_path):
    sizes = parse().backbone.sizes
    torch.manual_seed(1)
    source = PaliGemmaForConditionalGeneration(model_config(*sizes, image_size=16, vocabulary=20))
    source.save_pretrained(tmp_path)
    cfg = parse(backbone={"source": str(tmp_path), "dtype": "bfloat16"}, **LORA).resolved()
    spec = make_spec(cfg, SQUARE)
    policy, _ = build(cfg, spec)
    policy.load_pretrained(cfg.pretrained())
    expected = source.model.state_dict()
    own = policy.backbone.model.state_dict()
    weights = {name.replace(".base_layer", ""): value for name, value in own.items() if ".lora_" not in name}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[name].to(value.dtype)) for name, value in weights.items())

    train(policy, fake_batch(spec, 2))
    bundle.write_tensors(tmp_path / "trained.safetensors", policy.state_dict())
    (tmp_path / "config.json").unlink()  # a bundle's config is the resolved one
    again = Config.parse(cfg.plain(), where="bundle")
    other, _ = build(again, make_spec(again, SQUARE))
    bundle.load_weights(other, tmp_path / "trained.safetensors")
    batch = fake_batch(spec, 2)
    assert loss_of(policy.eval(), batch) == loss_of(other.eval(), batch)


def test_random_weights_have_no_source():
    assert parse().resolved() == parse()
    assert parse().pretrained() is None


@pytest.mark.parametrize(
    ("changes", "interface", "message"),
    [
        ({"action_dim": 56}, {}, r"policy.action_dim: expected .* = 4 \* 2 = 8, found 56"),
        ({"per_action_dim": 7}, {}, r"policy.per_action_dim: expected the 2 action dimensions of the data, found 7"),
        ({"num_image_tokens": 256}, {}, r"policy.num_image_tokens: expected 4, .*16 x 16 .*8 x 8, found 256"),
        ({}, {"image_size": (16, 32)}, r"transforms.image_size: expected a square of a multiple of 8 .*\[16, 32\]"),
        (
            {"backbone": {**PALIGEMMA["backbone"], "image_size": 224}},
            {},
            r"transforms.image_size: expected a square of 224 pixels for policy.backbone, found \[16, 16\]",
        ),
        (
            {"backbone": {**PALIGEMMA["backbone"], "feature_layer": 3}},
            {},
            r"policy.backbone.feature_layer: expected at most the 2 layers .*found 3",
        ),
        (
            {"backbone": {**PALIGEMMA["backbone"], "text": {**PALIGEMMA["backbone"]["text"], "vocabulary": 8}}},
            {},
            r"policy.backbone.text.vocabulary: expected at least the 9 ids of the tokenizer, found 8",
        ),
        ({**FROZEN, "unfreeze_last_layers": 3}, {}, r"policy.unfreeze_last_layers: expected at most the 2 layers"),
        ({**LORA, "unfreeze_last_layers": 1}, {}, r"policy.lora: .*found unfreeze_last_layers and lora"),
        ({**LORA, "freeze_language_model": False}, {}, r"policy.lora: .*freeze_language_model false"),
        ({"head": {**TRANSFORMER, "heads": 3}}, {}, r"policy.head.width: expected a multiple of its 3 attention heads"),
        (
            {"pool": "query", "resampler": {"type": "mlp", "output_dim": 30}},
            {},
            r"policy.resampler.output_dim: expected a multiple of its 4 attention heads, found 30",
        ),
    ],
)
def test_what_cannot_work_together_is_refused(changes, interface, message):
    with pytest.raises(ConfigError, match=message):
        make_spec(parse(**changes), replace(SQUARE, **interface))
