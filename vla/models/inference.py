"""From raw sensing to raw actions with a bundle: the one path that evaluation, rollouts and serving share."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image, UnidentifiedImageError

from vla import keyed
from vla.errors import CheckpointError, DataError
from vla.models.bundle import Bundle
from vla.models.policy import Memory, Observation
from vla.terms import Sensing
from vla.transforms import resize


def observe(bundle: Bundle, sensed: Sequence[Sensing], instructions: Sequence[str]) -> Observation:
    """What B robots or environments sense now, as a policy's input (T = 1); image sizes may differ between them."""
    processor = bundle.processor
    state_BS = processor.state.forward(raw_state(bundle, sensed), clip=True)
    ids_BL, is_pad_BL = processor.tokenize.batch(instructions, state_BS)
    return Observation(
        images_BTVCYX=torch.from_numpy(processor.images(_images(bundle, sensed))[:, None]),
        image_is_pad_BTV=torch.zeros(len(sensed), 1, len(bundle.spec.views), dtype=torch.bool),
        state_BTS=torch.from_numpy(state_BS[:, None]),
        tokens_BTL=torch.from_numpy(ids_BL[:, None]),
        token_is_pad_BTL=torch.from_numpy(is_pad_BL[:, None]),
        step_is_pad_BT=torch.zeros(len(sensed), 1, dtype=torch.bool),
        time_BT=torch.tensor([[item.time] for item in sensed], dtype=torch.float32),
        depth_BTVYX=None,
        intrinsics_BTV33=None,
        poses_BTV44=None,
        features={},
    )


def raw_state(bundle: Bundle, sensed: Sequence[Sensing]) -> Float32[np.ndarray, "B S"]:
    """The states as sensed; raises DataError when they are not of the policy's robot."""
    for item in sensed:
        if item.state_S.shape != (bundle.spec.state_dim,):
            raise DataError(
                f"state: expected {bundle.spec.state_dim} values ({', '.join(bundle.config.state_names)}), "
                f"found {item.state_S.size}. Give them all."
            )
    return np.stack([item.state_S for item in sensed])


def predict(
    bundle: Bundle,
    sensed: Sequence[Sensing],
    instructions: Sequence[str],
    *,
    noise_BHA: Float32[np.ndarray, "B H A"],
    memory: Memory | None = None,
    num_steps: int | None = None,
) -> tuple[Float32[np.ndarray, "B H A"], Memory]:
    """Action chunks in raw units, and the memory to pass with the next step of the same episodes.

    Noise has the policy's action dimensions, of which the last may be padding; chunks have the robot's.
    Raises CheckpointError when the policy answers with numbers that are not finite.
    """
    obs = observe(bundle, sensed, instructions)
    device = next(bundle.policy.parameters()).device
    if memory is None:
        memory = bundle.policy.initial_memory(len(noise_BHA), device)
    noise = torch.from_numpy(noise_BHA).to(device)
    chunk, memory = bundle.policy.act(obs.to(device), memory, noise, num_steps or bundle.policy_config.num_steps)
    real_BHA = chunk[..., : bundle.spec.real_action_dim].cpu().numpy()
    actions_BHA = bundle.processor.restore_actions(real_BHA, raw_state(bundle, sensed))
    if not np.isfinite(actions_BHA).all():
        raise CheckpointError(
            f"{bundle.path}: expected finite actions, found NaN or infinite ones: its training diverged. "
            f"Lower train.optimizer.lr and train again."
        )
    return actions_BHA, memory


def predict_alone(
    bundle: Bundle, sensed: Sequence[Sensing], instructions: Sequence[str], *, seed: int
) -> Float32[np.ndarray, "B H A"]:
    """Action chunks in raw units for B unrelated observations, each taken as the first step of an episode.

    The noise depends on `seed` alone, so an answer does not depend on what else is asked in the same call.
    """
    noise_HA = keyed.normal(seed, "predict", shape=(bundle.spec.action_horizon, bundle.spec.action_dim))
    noise_BHA = np.repeat(noise_HA[None], len(sensed), axis=0)
    chunks, _ = predict(bundle, sensed, instructions, noise_BHA=noise_BHA)
    return chunks


def decode_image(data: bytes, *, where: str) -> UInt8[np.ndarray, "Y X 3"]:
    """An encoded image (PNG, JPEG, ...) as RGB; `where` names its source in the error."""
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{where}: expected a PNG or JPEG image, found {error}. Give an image file.") from None


def _images(bundle: Bundle, sensed: Sequence[Sensing]) -> dict[str, UInt8[np.ndarray, "B Y X 3"]]:
    """The policy's views at its size; raises DataError when one is missing."""
    images: dict[str, UInt8[np.ndarray, "B Y X 3"]] = {}
    for view in bundle.spec.views:
        missing = [index for index, item in enumerate(sensed) if view not in item.images]
        if missing:
            found = ", ".join(sensed[missing[0]].images) or "none"
            raise DataError(f"images: expected the views {', '.join(bundle.spec.views)}, found {found}. Add {view}.")
        images[view] = np.concatenate([resize(item.images[view][None], bundle.spec.image_size) for item in sensed])
    return images
