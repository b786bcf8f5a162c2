"""Activation checkpointing: less memory, no other number."""

import pytest
import torch
from batches import PALIGEMMA, SETTINGS, fake_batch, tiny_policy
from safetensors.torch import load_file
from torch import nn

from vla.errors import ConfigError
from vla.models.policy import Policy
from vla.training import distributed, loop
from vla.training.objective import weighted_error
from vla.training.precision import autocast
from vla.training.recompute import recompute_blocks


def kept_bytes(policy, batch) -> int:
    """What the forward pass keeps for the backward pass, weights left out."""
    weights = {value.untyped_storage().data_ptr() for value in policy.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        weighted_error(policy(batch), batch).backward()
    return sum(count for count, _ in kept.values())


def gradients(policy, batch, *, precision="float32", seed=0) -> torch.Tensor:
    torch.manual_seed(seed)
    with autocast(precision, torch.device("cpu")):
        loss = policy(batch)
    weighted_error(loss, batch).backward()
    return torch.cat([value.grad.flatten() for value in policy.parameters() if value.requires_grad])


def test_a_training_gives_the_same_bits_with_and_without(make_job):
    found = []
    for on in (False, True):
        job = make_job(f"{on}", execution__activation_checkpointing=on)
        loop.train(job, distributed.single("cpu"))
        found.append(load_file(job.state_directory.bundle / "model.safetensors"))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_dropout_falls_on_the_same_places_when_a_block_is_computed_again(precision):
    found = {}
    for on, seed in ((False, 0), (True, 0), (True, 1)):
        policy, spec = tiny_policy("tiny_vla")
        for block in policy.checkpointed_blocks():
            block.feed.append(nn.Dropout(0.5))
        if on:
            recompute_blocks(policy)
        found[on, seed] = gradients(policy, fake_batch(spec, 2), precision=precision, seed=seed)
    assert torch.equal(found[False, 0], found[True, 0])
    assert not torch.equal(found[True, 0], found[True, 1])


ADAPTED = {
    "freeze_language_model": True,
    "lora": {"rank": 2, "alpha": 4, "dropout": 0.5, "targets": ["q_proj", "o_proj"]},
    "backbone": {**PALIGEMMA["backbone"], "dtype": "bfloat16"},
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("pi0", {}),
        ("pi05", {"freeze_vision_tower": True}),
        ("pi05", {"freeze_vision_tower": True, "freeze_language_model": True}),
        ("paligemma_vla", {"freeze_vision_tower": False}),
        ("paligemma_vla", ADAPTED),
    ],
    ids=["pi0", "pi05, frozen tower", "pi05, frozen prefix", "paligemma_vla", "paligemma_vla, adapters"],
)
def test_gradients_have_the_same_bits_whatever_is_frozen(name, changes, precision):
    found = []
    for on in (False, True):
        policy, spec = tiny_policy(name, **changes)
        policy.train()
        if on:
            recompute_blocks(policy)
        found.append(gradients(policy, fake_batch(spec, 2), precision=precision))
    assert found[0].any()
    assert torch.equal(*found)


def test_the_blocks_keep_their_inputs_alone(monkeypatch):
    monkeypatch.setitem(SETTINGS["tiny_vla"], "encoder_layers", 6)
    plain, spec = tiny_policy("tiny_vla")
    saving, _ = tiny_policy("tiny_vla")
    recompute_blocks(saving)
    batch = fake_batch(spec, 8)
    assert kept_bytes(saving, batch) < 0.4 * kept_bytes(plain, batch)


def test_names_of_weights_stay_as_they_are():
    policy, _ = tiny_policy("tiny_vla")
    names = list(policy.state_dict()), [name for name, _ in policy.named_modules()]
    recompute_blocks(policy)
    assert (list(policy.state_dict()), [name for name, _ in policy.named_modules()]) == names


def test_a_policy_without_blocks_is_refused(monkeypatch):
    policy, _ = tiny_policy("tiny_vla")
    monkeypatch.setattr(type(policy), "checkpointed_blocks", Policy.checkpointed_blocks)
    with pytest.raises(ConfigError, match=r"execution\.activation_checkpointing: .*TinyVLA, which lists none"):
        recompute_blocks(policy)
