import math
from dataclasses import replace

import pytest
import torch
from batches import tiny_policy
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vla.errors import ConfigError
from vla.training.ema import Ema
from vla.training.optim import OptimizerConfig, Schedule, clip_gradients, make_optimizer, set_learning_rate

SETTINGS = {
    "lr": 1.0,
    "lr_scales": {},
    "betas": (0.9, 0.95),
    "eps": 1e-8,
    "weight_decay": 0.1,
    "fused": False,
    "warmup_steps": 4,
    "anneal": "step",
    "final_lr": 0.1,
    "clip_norm": 1.0,
}


def config(**changes) -> OptimizerConfig:
    return OptimizerConfig.parse({**SETTINGS, **changes}, where="params.yaml")


def schedule(total_steps: int = 15, steps_per_epoch: int = 5, **changes) -> Schedule:
    return Schedule(config(**changes), total_steps, steps_per_epoch)


def test_the_rate_warms_up_linearly_then_falls_by_a_half_cosine_to_the_final_rate():
    rate = schedule().rate
    assert [rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate(9) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rate(14) == pytest.approx(0.1)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    assert schedule(warmup_steps=0).rate(0) == 1.0


def test_annealing_by_epoch_is_pytorch_s_cosine_annealing_stepped_once_per_epoch():
    ours = schedule(total_steps=14, steps_per_epoch=4, anneal="epoch", warmup_steps=0)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4, eta_min=0.1)
    for step in range(14):
        assert ours.rate(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        if step % 4 == 3:
            theirs.step()


def test_the_warm_up_of_annealing_by_epoch_grows_to_the_epoch_s_rate():
    rate = schedule(total_steps=20, steps_per_epoch=10, anneal="epoch", warmup_steps=4).rate
    assert [rate(step) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert rate(10) == rate(19) == pytest.approx(0.1 + 0.9 / 2)


@given(
    ratio=st.floats(1e-3, 1e3),
    warmup_steps=st.integers(0, 30),
    total_steps=st.integers(1, 40),
    anneal=st.sampled_from(["step", "epoch"]),
)
def test_a_group_keeps_its_ratio_at_every_step_of_any_schedule(ratio, warmup_steps, total_steps, anneal):
    policy, _ = tiny_policy("tiny_vla")
    ours = schedule(total_steps, 7, warmup_steps=warmup_steps, anneal=anneal, lr_scales={"vectors": ratio})
    optimizer = make_optimizer(policy, ours.cfg)
    for step in range(total_steps):
        set_learning_rate(optimizer, ours.rate(step))
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert rates["matrices"] == ours.rate(step) > 0
        assert rates["vectors"] == pytest.approx(ratio * rates["matrices"])


def test_the_ratio_of_the_parameters_comes_on_top_of_the_policy_s_own(monkeypatch):
    policy, _ = tiny_policy("tiny_vla")
    groups = [replace(group, lr_scale=0.5) for group in policy.parameter_groups()]
    monkeypatch.setattr(policy, "parameter_groups", lambda: iter(groups))
    matrices, vectors = make_optimizer(policy, config(lr_scales={"vectors": 0.1})).param_groups
    assert (matrices["lr_scale"], vectors["lr_scale"]) == (0.5, 0.05)


def test_a_ratio_for_an_unknown_group_is_refused_with_the_groups_that_there_are():
    policy, _ = tiny_policy("tiny_vla")
    with pytest.raises(ConfigError, match=r"lr_scales: expected .*\(matrices, vectors\), found 'vector'.*vectors"):
        make_optimizer(policy, config(lr_scales={"vector": 2.0}))


@pytest.mark.parametrize("ratio", [0, -1])
def test_a_ratio_that_is_not_positive_is_refused(ratio):
    with pytest.raises(ConfigError, match=rf"lr_scales: expected ratios above 0, found .*{ratio}.* freeze"):
        config(lr_scales={"vectors": ratio})


@pytest.mark.parametrize(("eps", "expected"), [(1e-8, 0.1), (1e-3, 0.05)])
def test_eps_bounds_the_update_of_small_gradients(eps, expected):
    """The first update is lr * g / (|g| + eps)."""
    policy, _ = tiny_policy("tiny_vla")
    before = policy.norm.weight.detach().clone()
    for value in policy.parameters():
        value.grad = torch.full_like(value, 1e-3)
    make_optimizer(policy, config(eps=eps, weight_decay=0.0, lr=0.1)).step()
    torch.testing.assert_close(before - policy.norm.weight, torch.full_like(before, expected), rtol=1e-4, atol=0)


def test_a_fused_update_is_the_same_up_to_rounding():
    weights = []
    for fused in (False, True):
        policy, _ = tiny_policy("tiny_vla")
        optimizer, generator = make_optimizer(policy, config(fused=fused, lr=1e-3)), torch.Generator().manual_seed(0)
        for _ in range(3):
            for value in policy.parameters():
                value.grad = torch.randn(value.shape, generator=generator)
            optimizer.step()
        weights.append(torch.cat([value.detach().flatten() for value in policy.parameters()]))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-6)
    assert all(group["fused"] for group in optimizer.param_groups)


def test_gradients_are_cut_to_the_norm_over_all_groups_after_unscaling():
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([2.0, 4.0]) * 8, torch.tensor([4.0]) * 8
    assert clip_gradients([first, second], largest=3.0, scale=8.0).item() == 6.0
    torch.testing.assert_close(first.grad, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(second.grad, torch.tensor([2.0]))


def test_a_trainable_parameter_in_bfloat16_is_a_defect():
    policy, _ = tiny_policy("tiny_vla")
    policy.norm.to(torch.bfloat16)
    with pytest.raises(AssertionError, match=r"in float32, found .*norm\.weight"):
        make_optimizer(policy, config())


def test_weight_decay_is_for_matrices_alone():
    policy, _ = tiny_policy("tiny_vla")
    decayed, spared = make_optimizer(policy, config()).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert all(value.ndim >= 2 for value in decayed["params"])
    assert all(value.ndim < 2 for value in spared["params"])


def test_a_parameter_missing_from_the_groups_is_a_defect(monkeypatch):
    policy, _ = tiny_policy("tiny_vla")
    groups = list(policy.parameter_groups())
    monkeypatch.setattr(policy, "parameter_groups", lambda: iter(groups[:1]))
    with pytest.raises(AssertionError, match="every trainable parameter once"):
        make_optimizer(policy, config())


def test_the_average_follows_the_warm_up_of_its_decay():
    ema = Ema({"w": torch.tensor([0.0])}, decay=0.5)
    ema.update({"w": torch.tensor([1.0])}, step=1)
    assert ema.values["w"].item() == pytest.approx(1 - 2 / 11)
    ema.update({"w": torch.tensor([1.0])}, step=1000)
    assert ema.values["w"].item() == pytest.approx(1 - 2 / 11 * 0.5)


def test_an_average_with_decay_zero_takes_no_room():
    ema = Ema({"w": torch.tensor([3.0])}, decay=0.0)
    ema.update({"w": torch.tensor([5.0])}, step=1)
    assert ema.values == {}


def test_the_average_takes_up_the_bits_that_it_takes_up_one_by_one():
    generator = torch.Generator().manual_seed(0)
    weights = {f"w{index}": torch.randn(7, index + 1, generator=generator) for index in range(5)}
    ema = Ema({name: value + 1 for name, value in weights.items()}, decay=0.99)
    expected = {name: value.clone().lerp_(weights[name], 1 - 4 / 13) for name, value in ema.values.items()}
    # A checkpoint gives the names back in another order.
    ema.values = dict(reversed(ema.values.items()))
    ema.update(weights, step=3)
    assert all(torch.equal(ema.values[name], expected[name]) for name in weights)
