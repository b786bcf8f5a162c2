import math

import pytest
import torch
from batches import tiny_policy
from torch import nn

from vla.training.ema import Ema
from vla.training.optim import OptimizerConfig, learning_rate, make_optimizer, set_learning_rate

CFG = OptimizerConfig(lr=1.0, betas=(0.9, 0.95), weight_decay=0.1, warmup_steps=4, final_lr=0.1, clip_norm=1.0)


def rate(step, cfg=CFG):
    return learning_rate(step, total_steps=15, cfg=cfg)


def test_the_rate_warms_up_linearly_then_falls_by_a_half_cosine_to_the_final_rate():
    assert [rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate(9) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rate(14) == pytest.approx(0.1)


def test_without_warm_up_the_first_step_has_the_peak_rate():
    assert rate(0, CFG.model_copy(update={"warmup_steps": 0})) == 1.0


def test_groups_keep_their_ratios_under_the_schedule():
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(
        [{"params": [layer.weight], "lr_scale": 1.0}, {"params": [layer.bias], "lr_scale": 0.1}], lr=1.0
    )
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.05]


def test_weight_decay_is_for_matrices_alone():
    policy, _ = tiny_policy("tiny_vla")
    decayed, spared = make_optimizer(policy, CFG).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert all(value.ndim >= 2 for value in decayed["params"])
    assert all(value.ndim < 2 for value in spared["params"])


def test_a_parameter_missing_from_the_groups_is_a_defect(monkeypatch):
    policy, _ = tiny_policy("tiny_vla")
    groups = list(policy.parameter_groups())
    monkeypatch.setattr(policy, "parameter_groups", lambda: iter(groups[:1]))
    with pytest.raises(AssertionError, match="every trainable parameter once"):
        make_optimizer(policy, CFG)


def test_the_average_follows_the_warm_up_of_its_decay():
    ema = Ema({"w": torch.tensor([0.0])}, decay=0.5)
    ema.update({"w": torch.tensor([1.0])}, step=1)
    assert ema.values["w"].item() == pytest.approx(1 - 2 / 11)
    ema.update({"w": torch.tensor([1.0])}, step=1000)
    assert ema.values["w"].item() == pytest.approx(1 - 2 / 11 * 0.5)


def test_an_average_with_decay_zero_is_the_last_weight():
    ema = Ema({"w": torch.tensor([3.0])}, decay=0.0)
    ema.update({"w": torch.tensor([5.0])}, step=1)
    assert ema.values["w"].item() == 5.0
