"""Tiny policies and random batches that fit them."""

from dataclasses import replace

import numpy as np
import torch

from vla import keyed, registry
from vla.models.policy import Batch, Interface, Observation
from vla.terms import PolicySpec
from vla.training.optim import OptimizerConfig

INTERFACE = Interface(
    views=("front", "wrist"), image_size=(16, 32), state_dim=3, action_dim=2, max_tokens=4, vocabulary=9
)
PI = {
    "action_horizon": 4,
    "num_steps": 2,
    "max_action_dim": 5,
    "vision": {"width": 24, "depth": 1, "mlp_dim": 32, "heads": 2, "patch_size": 8},
    "language": {"width": 32, "depth": 2, "mlp_dim": 48, "heads": 4, "kv_heads": 2, "head_dim": 8},
    "expert": {"width": 32, "depth": 2, "mlp_dim": 48, "heads": 4, "kv_heads": 2, "head_dim": 8},
    "vocabulary": None,
    "attention": "sdpa",
    "freeze_vision_tower": False,
    "freeze_language_model": False,
}
PALIGEMMA = {
    "action_horizon": 4,
    "num_steps": 2,
    "per_action_dim": 2,
    "action_dim": 8,
    "window_steps": 3,
    "step_stride": 2,
    "use_state_input": True,
    "num_image_tokens": 4,
    "backbone": {
        "vision": PI["vision"],
        "text": {**PI["language"], "family": "gemma", "vocabulary": None},
        "dtype": "float32",
    },
    "freeze_vision_tower": True,
    "freeze_language_model": False,
    "resampler": {"type": "mlp", "output_dim": 32},
    "pool": "mean",
    "head": {"type": "mlp", "hidden_dims": [64, 32], "dropout": 0.0},
}
OPTIMIZER = OptimizerConfig(
    lr=3e-3,
    lr_scales={},
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=0.0,
    fused=False,
    warmup_steps=0,
    anneal="step",
    final_lr=0.0,
    clip_norm=1.0,
)
"""Of the short trainings in tests of policies."""
SETTINGS = {
    "paligemma_vla": PALIGEMMA,
    "pi0": {**PI, "max_state_dim": 4},
    "pi05": PI,
    "tiny_vla": {"action_horizon": 4, "num_steps": 2, "width": 32, "heads": 2, "encoder_layers": 1, "expert_layers": 1},
}
"""Policy file -> the smallest settings that still exercise all of it."""
SQUARE = replace(INTERFACE, image_size=(16, 16))
INTERFACES = {"paligemma_vla": SQUARE, "pi0": SQUARE, "pi05": SQUARE}
"""Policy file -> the data that its settings are for, where it is not INTERFACE."""


def a_spec(*, horizon: int = 3, window: int = 1, predict: int = 1, stride: int = 1, **changes) -> PolicySpec:
    """The spec of a policy of the given windows, with one view of 16 x 16 pixels, state and action of one number."""
    spec = PolicySpec(
        views=("front",),
        image_size=(16, 16),
        state_dim=1,
        action_dim=1,
        action_horizon=horizon,
        max_tokens=1,
        vocabulary=2,
        window_steps=window,
        predict_steps=predict,
        step_stride=stride,
    )
    return replace(spec, **changes)


def tiny_policy(name: str, *, seed: int = 0, **changes):
    """A policy of the given file with random weights, none of them 0 throughout, and its spec."""
    module = registry.find("policies", name)
    cfg = module.Config.parse({"name": name, **SETTINGS[name], **changes}, where="tests")
    spec = module.make_spec(cfg, INTERFACES.get(name, INTERFACE))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy, _ = module.build(cfg, spec)
        open_gates(policy)
    return policy, spec


def open_gates(policy: torch.nn.Module) -> None:
    """Weights that begin at 0 get random ones: what is behind a closed gate could not be seen to go wrong."""
    for weight in policy.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)


def fake_batch(spec: PolicySpec, batch_size: int, *, rows: slice = slice(None), seed: int = 0) -> Batch:
    """Rows of a random batch of weight 1 (0 in padded dimensions), with the weight of the whole batch as its total."""
    b, t, p, v = batch_size, spec.window_steps, spec.predict_steps, len(spec.views)
    shape = (b, p, spec.action_horizon, spec.action_dim)

    def integers(*shape: int, high: int) -> torch.Tensor:
        count = int(np.prod(shape))
        return torch.from_numpy(keyed.integers(seed, f"int{high}", count=count, low=0, high=high).reshape(shape))

    def normals(purpose: str, *shape: int) -> torch.Tensor:
        return torch.from_numpy(keyed.normal(seed, purpose, shape=shape))

    obs = Observation(
        images_BTVCYX=integers(b, t, v, 3, *spec.image_size, high=256).to(torch.uint8)[rows],
        image_is_pad_BTV=torch.zeros(b, t, v, dtype=torch.bool)[rows],
        state_BTS=normals("state", b, t, spec.state_dim)[rows],
        tokens_BTL=integers(b, t, spec.max_tokens, high=spec.vocabulary)[rows],
        token_is_pad_BTL=torch.zeros(b, t, spec.max_tokens, dtype=torch.bool)[rows],
        step_is_pad_BT=torch.zeros(b, t, dtype=torch.bool)[rows],
        time_BT=torch.zeros(b, t)[rows],
        depth_BTVYX=None,
        intrinsics_BTV33=None,
        poses_BTV44=None,
        features={},
    )
    weight = torch.ones(shape)
    weight[..., spec.real_action_dim :] = 0.0
    unit = keyed.uniform(seed, "unit", count=b * p * spec.action_horizon).reshape(shape[:3])
    return Batch(
        obs=obs,
        actions_BPHA=(normals("actions", *shape) * weight)[rows],
        weight_BPHA=weight[rows],
        noise_BPHA=normals("noise", *shape)[rows],
        time_BPH=torch.from_numpy(unit.astype(np.float32))[rows],
        sample_uid_B=torch.arange(b)[rows],
        weight_total=float(weight.sum()),
    )
