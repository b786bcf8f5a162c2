"""Checkpoints of a policy of which a part is frozen: they hold what training changes, and know what it does not."""

import pytest
import torch
from projects import params
from safetensors.torch import load_file
from torch import nn

from vla.errors import CheckpointError
from vla.models.bundle import write_tensors
from vla.models.policy import Encoded, Policy
from vla.training import checkpoint
from vla.training.checkpoint import Retention
from vla.training.frozen import digest_of_tensors, frozen_parameters
from vla.training.job import TrainConfig
from vla.training.state import TrainState, weights_for_bundle

CONFIG = TrainConfig.parse(params({})["train"], where="test")


class PartlyFrozen(Policy):
    """What is used last is registered first; the frozen part is used first. Each has a second name."""

    def __init__(self, trunk_seed: int = 0):
        super().__init__()
        torch.manual_seed(7)
        self.head = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)
        torch.manual_seed(trunk_seed)
        self.trunk = nn.Linear(3, 4).requires_grad_(False)
        self.again, self.last = self.trunk, self.head

    def encode(self, obs, memory):
        return Encoded(obs, memory, {})

    def velocity(self, context, noisy_actions_QHA, time_QH):
        return self.last(self.norm(self.again(noisy_actions_QHA)))


def a_state(**changes) -> TrainState:
    return TrainState.fresh(PartlyFrozen(**changes).train(), CONFIG)


def take_steps(state: TrainState, count: int) -> None:
    for _ in range(count):
        torch.manual_seed(state.step)
        state.policy.velocity(None, torch.randn(5, 3), None).square().mean().backward()
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.ema.update(state.parameters(), step=state.step)


@pytest.fixture
def saved(tmp_path):
    """A state after three steps and the path of its checkpoint."""
    state = a_state()
    take_steps(state, 3)
    return state, checkpoint.save(
        tmp_path, step=state.step, tensors=state.tensors(), notes=state.notes(), retention=Retention(1)
    )


def test_a_checkpoint_holds_trained_weights_and_buffers_and_no_frozen_weight(saved):
    _, path = saved
    trained = {"head.weight", "head.bias", "norm.weight", "norm.bias"}
    buffers = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert set(load_file(path / "model.safetensors")) == trained | buffers
    assert set(load_file(path / "ema.safetensors")) == trained
    assert {name.rpartition("/")[0] for name in load_file(path / "optimizer.safetensors")} == trained


def test_a_resume_goes_on_with_the_same_bits(saved):
    state, path = saved
    other = a_state()
    take_steps(other, 1)  # what a resume finds is not what it starts with
    other.load(checkpoint.load(path))
    for each in (state, other):
        take_steps(each, 4)
    assert other.step == 7
    for stem, values in state.tensors().items():
        assert all(torch.equal(value, other.tensors()[stem][name]) for name, value in values.items()), stem
    assert not torch.equal(state.policy.head.weight, a_state().policy.head.weight)


def test_the_bundle_is_complete(saved, tmp_path):
    state, _ = saved
    weights = weights_for_bundle(state)
    assert set(weights) == set(state.policy.state_dict())
    assert torch.equal(weights["trunk.weight"], state.policy.trunk.weight)
    for name in ("head.weight", "last.weight"):
        assert torch.equal(weights[name], state.ema.values["head.weight"])
        assert not torch.equal(weights[name], state.policy.head.weight)
    write_tensors(tmp_path / "weights", weights)
    found = load_file(tmp_path / "weights")
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_other_frozen_weights_than_those_of_the_start_are_refused(saved):
    _, path = saved
    other = a_state(trunk_seed=1)
    before = other.policy.head.weight.clone()
    with pytest.raises(CheckpointError, match=f"{path}: expected a policy with frozen weights of SHA-256 .*, found"):
        other.load(checkpoint.load(path))
    assert torch.equal(other.policy.head.weight, before)


def test_a_policy_that_freezes_another_part_is_refused(saved):
    _, path = saved
    policy = PartlyFrozen()
    policy.norm.requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"model differs from this policy in .*norm"):
        TrainState.fresh(policy, CONFIG).load(checkpoint.load(path))


def test_frozen_parameters_are_found_under_all_their_names():
    assert set(frozen_parameters(PartlyFrozen())) == {"trunk.weight", "trunk.bias", "again.weight", "again.bias"}


def test_the_digest_covers_names_types_shapes_and_values_and_no_order():
    one, two = torch.arange(6.0), torch.ones(())
    digest = digest_of_tensors({"a": one, "b": two})
    assert digest == digest_of_tensors({"b": two, "a": one.clone()})
    assert digest == digest_of_tensors({"a": torch.stack([one, one], 1)[:, 0], "b": two})
    others = [
        {"a": one, "c": two},
        {"a": one.reshape(2, 3), "b": two},
        {"a": one.bfloat16(), "b": two},
        {"a": torch.nextafter(one, one + 1), "b": two},
        {"a": one},
        {"a": one, "b": two, "c": torch.empty(0)},
    ]
    assert len({digest, *(digest_of_tensors(other) for other in others)}) == 7
