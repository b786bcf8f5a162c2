"""Batches of the shapes that a policy asks for, without data."""

import torch

from vla.models.policy import Batch, Observation
from vla.terms import PolicySpec


def empty_observation(spec: PolicySpec, batch_size: int, *, steps: int) -> Observation:
    """What a policy senses in `steps` steps; the values are whatever is in memory, if there is memory."""
    b, t, v = batch_size, steps, len(spec.views)

    def present(*shape: int) -> torch.Tensor:
        return torch.zeros(b, t, *shape, dtype=torch.bool)

    return Observation(
        images_BTVCYX=None if spec.features else torch.empty(b, t, v, 3, *spec.image_size, dtype=torch.uint8),
        image_is_pad_BTV=present(v),
        state_BTS=torch.empty(b, t, spec.state_dim),
        tokens_BTL=torch.zeros(b, t, spec.max_tokens, dtype=torch.int64),
        token_is_pad_BTL=present(spec.max_tokens),
        step_is_pad_BT=present(),
        time_BT=torch.zeros(b, t),
        depth_BTVYX=torch.empty(b, t, v, *spec.image_size) if "depth" in spec.needs else None,
        intrinsics_BTV33=torch.empty(b, t, v, 3, 3) if "intrinsics" in spec.needs else None,
        poses_BTV44=torch.empty(b, t, v, 4, 4) if "poses" in spec.needs else None,
        features={name: _features(b, t, item.shape, item.dtype) for name, item in spec.features.items()},
    )


def empty_batch(spec: PolicySpec, batch_size: int) -> Batch:
    """A micro-batch of `batch_size` samples."""
    b, p, h, a = batch_size, spec.predict_steps, spec.action_horizon, spec.action_dim
    return Batch(
        obs=empty_observation(spec, b, steps=spec.window_steps),
        actions_BPHA=torch.empty(b, p, h, a),
        weight_BPHA=torch.ones(b, p, h, a),
        noise_BPHA=torch.empty(b, p, h, a),
        time_BPH=torch.empty(b, p, h),
        sample_uid_B=torch.zeros(b, dtype=torch.int64),
        weight_total=float(b * p * h * a),
    )


def _features(batch_size: int, steps: int, shape: tuple[int, int], dtype: str) -> torch.Tensor:
    return torch.empty(batch_size, steps, *shape, dtype=getattr(torch, dtype))
