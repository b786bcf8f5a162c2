"""AdamW over a policy's parameter groups, its learning-rate schedule, and the norm that its gradients are cut to."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from vla.config import Config
from vla.errors import ConfigError
from vla.models.policy import ParameterGroup, Policy
from vla.registry import did_you_mean

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """Section `train.optimizer`: AdamW (Loshchilov & Hutter, arXiv:1711.05101) with warm-up and cosine annealing."""

    lr: Positive
    """Peak learning rate, reached after `warmup_steps`."""
    lr_scales: Mapping[str, Annotated[float, Field(allow_inf_nan=False)]]
    """Parameter group -> ratio of its learning rate to the schedule's, on top of the policy's own for that group."""
    betas: tuple[Decay, Decay]
    eps: Positive
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0)]
    """For matrices only; a policy's parameter groups say which those are."""
    fused: bool
    """One kernel for the whole update instead of several: faster, and rounded differently. No device decides it,
    so that equal parameters mean the same arithmetic everywhere."""
    warmup_steps: Annotated[int, Field(ge=0)]
    anneal: Literal["step", "epoch"]
    """step: the cosine falls at every step, to `final_lr` at the last one. epoch: it falls after each epoch, as
    PyTorch's CosineAnnealingLR does that is stepped once per epoch, with `final_lr` as what comes after the last."""
    final_lr: Annotated[float, Field(ge=0)]
    clip_norm: Positive
    """Largest global gradient norm."""

    @field_validator("lr_scales")
    @classmethod
    def _nobody_stands_still(cls, ratios: Mapping[str, float]) -> Mapping[str, float]:
        if wrong := {name: ratio for name, ratio in ratios.items() if ratio <= 0}:
            raise ValueError(
                f"expected ratios above 0, found {wrong}. A group without learning rate still costs gradients and "
                f"moments: freeze its weights in section policy instead"
            )
        return ratios


def make_optimizer(policy: Policy[Any], cfg: OptimizerConfig) -> torch.optim.AdamW:
    """One optimizer group per parameter group; each keeps its name, parameter names and learning-rate ratio.

    Raises ConfigError where `lr_scales` names a group that the policy does not train.
    """
    trained = [group for group in policy.parameter_groups() if group.parameters]
    _check_groups(policy, trained)
    names = sorted({group.name for group in trained})
    for name in cfg.lr_scales:
        if name not in names:
            raise ConfigError(
                f"train.optimizer.lr_scales: expected groups that {type(policy).__name__} trains "
                f"({', '.join(names)}), found {name!r}.{did_you_mean(name, names)}"
            )
    groups: list[dict[str, Any]] = [
        {
            "params": list(group.parameters.values()),
            "parameter_names": list(group.parameters),
            "name": group.name,
            "lr_scale": group.lr_scale * cfg.lr_scales.get(group.name, 1.0),
            "weight_decay": cfg.weight_decay if group.weight_decay else 0.0,
        }
        for group in trained
    ]
    return torch.optim.AdamW(groups, lr=cfg.lr, betas=cfg.betas, eps=cfg.eps, fused=cfg.fused)


def _check_groups(policy: Policy[Any], trained: Iterable[ParameterGroup]) -> None:
    """A policy's groups are its trainable parameters, once each, in float32: smaller steps vanish in bfloat16."""
    named = [name for group in trained for name in group.parameters]
    trainable = {name: value for name, value in policy.named_parameters() if value.requires_grad}
    if sorted(named) != sorted(trainable):
        raise AssertionError(
            f"{type(policy).__name__}.parameter_groups must hold every trainable parameter once; "
            f"differing: {sorted(set(named) ^ set(trainable))}"
        )
    narrow = {name: value.dtype for name, value in trainable.items() if value.dtype != torch.float32}
    if narrow:
        raise AssertionError(f"{type(policy).__name__}: expected trainable parameters in float32, found {narrow}")


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate of every step: linear warm-up, and a half cosine from `lr` to `final_lr`."""

    cfg: OptimizerConfig
    total_steps: int
    steps_per_epoch: int

    def rate(self, step: int) -> float:
        """The rate of optimizer step `step`, counted from 0."""
        cfg = self.cfg
        if cfg.anneal == "epoch":
            epochs = math.ceil(self.total_steps / self.steps_per_epoch)
            rate = self._annealed(step // self.steps_per_epoch / epochs)
            return rate * min(1.0, (step + 1) / max(1, cfg.warmup_steps))
        if step < cfg.warmup_steps:
            return cfg.lr * (step + 1) / cfg.warmup_steps
        span = max(1, self.total_steps - 1 - cfg.warmup_steps)
        return self._annealed(min(1.0, (step - cfg.warmup_steps) / span))

    def _annealed(self, progress: float) -> float:
        """`progress` goes from 0 to 1."""
        return self.cfg.final_lr + (self.cfg.lr - self.cfg.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def learning_rates(optimizer: torch.optim.Optimizer, rate: float) -> dict[str, float]:
    """`lr`, and `lr/<group>` for the groups whose ratio is not 1."""
    groups = {group["name"]: group["lr_scale"] for group in optimizer.param_groups}
    return {"lr": rate, **{f"lr/{name}": rate * scale for name, scale in groups.items() if scale != 1}}


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its own ratio, so that ratios hold under any schedule."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def clip_gradients(parameters: Iterable[nn.Parameter], *, largest: float, scale: float) -> Tensor:
    """Divide the gradients by `scale` and cut them to the global norm `largest`; returns the norm before the cut.

    The norm stays on the device: to look at it is to wait for everything before it.
    """
    trained = list(parameters)
    if scale != 1.0:
        torch._foreach_mul_([value.grad for value in trained if value.grad is not None], 1 / scale)
    return nn.utils.clip_grad_norm_(trained, largest)
