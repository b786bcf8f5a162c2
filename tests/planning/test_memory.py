import gc

import psutil
import pytest
import torch
from batches import INTERFACE, SETTINGS, tiny_policy
from torch import nn

from vla import registry
from vla.models.policy import Encoded, Policy
from vla.planning.batch import empty_batch
from vla.planning.live import LiveBytes, shapes_alone
from vla.planning.memory import (
    TrainingMemory,
    acting_memory,
    count_parameters,
    largest_micro_batch,
    peak_of_passes,
    training_memory,
)
from vla.planning.plan import shape_of_policy
from vla.terms import PolicySpec
from vla.training.machine import count_flops
from vla.training.recompute import recompute_blocks

KB = 4 * 250
"""Bytes of 250 float32 numbers."""


class OneLayer(Policy[None]):
    """A linear layer from noisy actions to their velocity, and a frozen one that nothing uses."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.spec = spec
        self.layer = nn.Linear(spec.action_dim, spec.action_dim)
        self.unused = nn.Linear(10, 10, bias=False).requires_grad_(False)

    def encode(self, obs, memory):
        return Encoded(None, memory, {})

    def velocity(self, context, noisy_actions_QHA, time_QH):
        return self.layer(noisy_actions_QHA)


def one_layer() -> OneLayer:
    return OneLayer(
        PolicySpec(
            views=(), image_size=(1, 1), state_dim=1, action_dim=20, action_horizon=5, max_tokens=1, vocabulary=1
        )
    )


def test_what_is_held_counts_until_nothing_holds_it():
    known = torch.ones(250)
    with LiveBytes([known]) as live:
        doubled = known * 2
        same = doubled.view(5, 50)[0]
        assert live.now == KB
        other = doubled + 1
        assert live.now == 2 * KB
        del doubled
        assert live.now == 2 * KB  # a view still holds it
        del same
        assert (live.now, live.peak) == (KB, 2 * KB)
        known.add_(other)
        assert live.now == KB


def test_parameters_are_counted_by_part_and_by_whether_they_train():
    counts = count_parameters(one_layer())
    assert counts.by_part == {"layer": (420, 420), "unused": (100, 0)}
    assert (counts.total, counts.trained) == (520, 420)


def test_one_layer_by_hand():
    """Layer: 420 weights. Its pass makes 5 x 20 numbers a sample several times: noisy actions, velocity, error, ..."""
    policy = one_layer()
    memory = training_memory(policy, policy.spec, 3, precision="float32", fused=False, averaged=True)
    assert (memory.weights, memory.gradients, memory.moments, memory.average) == (4 * 520, 4 * 420, 8 * 420, 4 * 420)
    assert memory.update == 4 * 420
    without = training_memory(policy, policy.spec, 3, precision="float32", fused=False, averaged=False)
    assert memory.total - without.total == 4 * 420
    tensors = memory.activations / (3 * 4 * 5 * 20)
    assert 6 <= tensors <= 12
    assert memory.total == 4 * 520 + 16 * 420 + max(memory.fixed + memory.activations, memory.update)


def test_operations_of_one_layer_by_hand():
    """Forward 2 x 5 x 20 x 20, and as much for the weights' gradient; the actions need none."""
    policy = one_layer()
    assert count_flops(policy, empty_batch(policy.spec, 1), policy) == 2 * (2 * 5 * 20 * 20)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
def test_shapes_alone_give_what_real_tensors_take(precision, recomputed):
    """To a hundredth: kernels of real tensors keep a few numbers more, such as states of random generators."""
    policy, spec = tiny_policy("tiny_vla")
    shape, _ = shape_of_policy({"name": "tiny_vla", **SETTINGS["tiny_vla"]}, INTERFACE)
    if recomputed:
        recompute_blocks(policy)
        recompute_blocks(shape)
    real = peak_of_passes(policy, empty_batch(spec, 4), precision)
    with shapes_alone():
        assert peak_of_passes(shape, empty_batch(spec, 4), precision) == pytest.approx(real, rel=0.01)


def test_activations_follow_the_micro_batch_and_copies_of_weights_do_not():
    policy, spec = tiny_policy("tiny_vla")
    wide, narrow = (
        training_memory(policy, spec, 64, precision=precision, fused=True, averaged=True)
        for precision in ("float32", "bfloat16")
    )
    twice = training_memory(policy, spec, 128, precision="bfloat16", fused=True, averaged=True)
    assert twice.activations == pytest.approx(2 * narrow.activations, rel=0.01)
    assert narrow.activations < wide.activations
    assert 0 < narrow.fixed < 2 * count_parameters(policy).trained + 4096
    assert (narrow.gradients, narrow.update) == (wide.gradients, 0)


def test_activation_checkpointing_keeps_less():
    policy, spec = tiny_policy("tiny_vla")
    before = peak_of_passes(policy, empty_batch(spec, 16), "float32")
    recompute_blocks(policy)
    assert peak_of_passes(policy, empty_batch(spec, 16), "float32") < 0.85 * before


def test_acting_takes_the_weights_and_less_than_training():
    policy, spec = tiny_policy("tiny_vla")
    weights = sum(4 * value.numel() for value in policy.parameters())
    passes = peak_of_passes(policy, empty_batch(spec, 1), "float32")
    assert weights < acting_memory(policy.eval(), spec) < weights + passes


def test_two_billion_weights_are_planned_without_memory_for_them():
    module = registry.find("policies", "tiny_vla")
    settings = {**SETTINGS["tiny_vla"], "name": "tiny_vla", "width": 8192, "encoder_layers": 2}
    assert module.Config.parse(settings, where="test").width == 8192
    gc.collect()
    before = psutil.Process().memory_info().rss
    policy, spec = shape_of_policy(settings, INTERFACE)
    with shapes_alone():
        memory = training_memory(policy, spec, 2, precision="bfloat16", fused=True, averaged=True)
    assert memory.weights > 8e9
    assert psutil.Process().memory_info().rss - before < 3e8


def a_memory(*, fixed: int, activations: int, update: int = 0) -> TrainingMemory:
    return TrainingMemory(
        weights=10, gradients=10, moments=20, average=10, fixed=fixed, activations=activations, update=update
    )


def test_the_largest_micro_batch_is_where_a_straight_line_meets_the_room():
    memory = a_memory(fixed=5, activations=10)  # of micro-batches of 2: 5 + 5 a sample, over the 50 that stay
    assert largest_micro_batch(memory, 2, room=50 + 26, peak=lambda count: 5 + 5 * count) == 4


def test_a_steeper_line_above_what_was_measured_lowers_it_to_one_that_fits():
    peak = lambda count: max(100 + count, 10 * count)  # noqa: E731
    memory = a_memory(fixed=100, activations=2)  # measured at 2 and 4, on the first line
    found = largest_micro_batch(memory, 2, room=50 + 150, peak=peak)
    assert peak(found) <= 150 < peak(16)
    assert found == 9  # and not 15: the line through what was measured ends above the true one


def test_no_micro_batch_fits_where_the_rest_does_not():
    peak = lambda count: 5 + 5 * count  # noqa: E731
    assert largest_micro_batch(a_memory(fixed=5, activations=10), 2, room=40, peak=peak) == 0
    assert largest_micro_batch(a_memory(fixed=5, activations=10, update=60), 2, room=100, peak=peak) == 0
