"""AdamW over a policy's parameter groups, and its learning-rate schedule."""

import math
from typing import Annotated, Any

import torch
from pydantic import Field

from vla.config import Config
from vla.models.policy import Policy

Positive = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """Section `train.optimizer`: AdamW (Loshchilov & Hutter, arXiv:1711.05101) with warm-up and cosine annealing."""

    lr: Positive
    """Peak learning rate, reached after `warmup_steps`."""
    betas: tuple[Decay, Decay]
    weight_decay: Annotated[float, Field(ge=0)]
    """For matrices only; a policy's parameter groups say which those are."""
    warmup_steps: Annotated[int, Field(ge=0)]
    final_lr: Annotated[float, Field(ge=0)]
    """Learning rate of the last step."""
    clip_norm: Positive
    """Largest global gradient norm."""


def make_optimizer(policy: Policy[Any], cfg: OptimizerConfig) -> torch.optim.AdamW:
    """One optimizer group per parameter group; each keeps its name, parameter names and learning-rate ratio."""
    groups: list[dict[str, Any]] = [
        {
            "params": list(group.parameters.values()),
            "parameter_names": list(group.parameters),
            "name": group.name,
            "lr_scale": group.lr_scale,
            "weight_decay": cfg.weight_decay if group.weight_decay else 0.0,
        }
        for group in policy.parameter_groups()
        if group.parameters
    ]
    named = [name for group in groups for name in group["parameter_names"]]
    trainable = [name for name, value in policy.named_parameters() if value.requires_grad]
    if sorted(named) != sorted(trainable):
        raise AssertionError(
            f"{type(policy).__name__}.parameter_groups must hold every trainable parameter once; "
            f"differing: {sorted(set(named) ^ set(trainable))}"
        )
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=cfg.betas)


def learning_rate(step: int, *, total_steps: int, cfg: OptimizerConfig) -> float:
    """The rate of optimizer step `step` (from 0): linear warm-up to `lr`, then a half cosine to `final_lr`."""
    if step < cfg.warmup_steps:
        return cfg.lr * (step + 1) / cfg.warmup_steps
    span = max(1, total_steps - 1 - cfg.warmup_steps)
    progress = min(1.0, (step - cfg.warmup_steps) / span)
    return cfg.final_lr + (cfg.lr - cfg.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its own ratio, so that ratios hold under any schedule."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
