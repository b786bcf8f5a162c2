from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from batches import a_spec, fake_batch, tiny_policy
from hypothesis import given
from hypothesis import strategies as st

from vla.models.flow_matching import time_from_uniform
from vla.models.policy import FlowLoss
from vla.training import distributed
from vla.training.machine import Machine, count_flops
from vla.training.meters import Interval, Step
from vla.training.objective import TIME_BINS, errors_by_time
from vla.training.recompute import recompute_blocks

STEP = Step(loss=2.0, grad_norm=3.0, data_seconds=0.5, seconds=2.0, stop=False, by_time=[1.0] * 2 * TIME_BINS)


def sums_of(times: list[float], errors: list[float], weights: list[float]) -> torch.Tensor:
    """Of samples of one action each."""
    batch = fake_batch(a_spec(horizon=1), len(times))

    def shaped(values: list[float], *more: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, *more)

    batch = replace(batch, time_BPH=shaped(times), weight_BPHA=shaped(weights, 1))
    return errors_by_time(FlowLoss(shaped(errors, 1), {}), batch)


def test_errors_are_told_apart_by_flow_time_in_ranges_that_are_equally_likely():
    edges = time_from_uniform(np.array([0.25, 0.5, 0.75]))
    below, above = float(edges[0]) - 1e-4, float(edges[0]) + 1e-4
    sums = sums_of([0.001, below, above, 1.0], [1.0, 2.0, 4.0, 8.0], [1.0, 0.5, 1.0, 0.0])
    assert sums.tolist() == [[2.0, 4.0, 0.0, 0.0], [1.5, 1.0, 0.0, 0.0]]


@given(st.lists(st.tuples(st.floats(2**-9, 1, width=32), st.floats(0, 9, width=32)), min_size=1, max_size=20))
def test_the_mean_over_the_ranges_by_weight_is_the_loss(samples):
    times, errors = ([float(value) for value in column] for column in zip(*samples, strict=True))
    weights = [1.0] * len(times)
    sums = sums_of(times, errors, weights)
    assert float(sums[0].sum() / sums[1].sum()) == pytest.approx(float(np.mean(errors)), rel=1e-6, abs=1e-12)


def test_an_interval_gives_means_and_rates():
    interval = Interval()
    for loss in (2.0, 4.0):
        interval.add(replace(STEP, loss=loss))
    found = interval.metrics(batch_size=8)
    assert (found["loss"], found["grad_norm"]) == (3.0, 3.0)
    assert (found["samples_per_s"], found["steps_per_s"], found["data_wait"]) == (4.0, 0.5, 0.25)
    assert [found[f"loss_time/{number}"] for number in range(TIME_BINS)] == [1.0] * TIME_BINS


def test_a_range_of_flow_time_without_actions_has_no_loss():
    interval = Interval()
    interval.add(replace(STEP, by_time=[0.0, 3.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0]))
    found = interval.metrics(batch_size=8)
    assert {name: value for name, value in found.items() if name.startswith("loss_time")} == {"loss_time/1": 1.5}


def test_an_interval_goes_on_adding_after_a_checkpoint():
    straight, before = Interval(), Interval()
    before.add(STEP)
    after = Interval(**asdict(before))
    for interval in (straight, straight, after):
        interval.add(STEP)
    assert after == straight


def test_speed_is_per_device_and_a_cpu_has_no_known_peak():
    context = distributed.single("cpu")
    found = Machine(context, "bfloat16", flops_per_sample=2e9).metrics(samples_per_s=100.0)
    assert found["tflops_per_s"] == pytest.approx(0.2)
    assert "mfu" not in found
    assert 50e6 < found["memory_bytes"] < 1e12


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "float16", 756e12),
        ("NVIDIA H100 NVL", "bfloat16", 835e12),
        ("NVIDIA H200", "bfloat16", 989e12),
        ("NVIDIA H200 NVL", "bfloat16", 835e12),
        ("NVIDIA H100 80GB HBM3", "float32", None),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("An unknown GPU", "bfloat16", None),
    ],
)
def test_the_peak_of_a_known_gpu_is_that_of_its_data_sheet(monkeypatch, name, precision, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: name)
    context = distributed.single("cpu")
    context.device = torch.device("cuda")
    assert Machine(context, precision).peak_flops() == peak


def test_operations_are_counted_once_whether_or_not_blocks_are_computed_again():
    policy, spec = tiny_policy("tiny_vla")
    batch, layer = fake_batch(spec, 1), policy.embed_state[2]
    plain = count_flops(policy, batch, policy)
    recompute_blocks(policy)
    assert count_flops(policy, batch, policy) == plain
    # One row through a square layer: forward, and the gradients of its input and of its weight.
    width = layer.in_features
    assert plain > 3 * 2 * width * width
    layer.requires_grad_(requires_grad=False)
    assert plain - count_flops(policy, batch, policy) == 2 * width * width
    assert all(value.grad is None for value in policy.parameters())


def test_operations_of_fused_attention_are_those_of_the_written_out_one_and_its_scores_once_more():
    """The fused backward pass computes the scores again, as torch counts it: 7 products of matrices in place of 6."""

    def operations(attention: str) -> float:
        policy, spec = tiny_policy("pi05", attention=attention)
        return count_flops(policy, fake_batch(spec, 1), policy)

    eager, fused = operations("eager"), operations("sdpa")
    assert eager < fused < 1.05 * eager
