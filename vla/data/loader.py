"""Batches as a pure function of (seed, step): what a sample is, its place in the order and all its randomness.

Nothing here has a position or a generator state, so a resume needs two integers, and ranks agree on every batch
without talking. Noise and augmentation are keyed by the presentation: the place in the order, counted over epochs.
"""

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self

import numpy as np
import torch
from jaxtyping import Float32, Int64

from vla import keyed
from vla.augmentation import AugmentConfig, augment
from vla.data.frames import Frames
from vla.data.order import Order
from vla.data.samples import Contents, Samples, read_all_steps
from vla.data.sources import own_id
from vla.formats import Recordings
from vla.models.flow_matching import time_from_uniform
from vla.models.policy import Batch, Observation
from vla.terms import Steps


class Supply(Protocol):
    """Where the recorded contents of a training's batches come from."""

    @property
    def seconds(self) -> float:
        """Time spent on reading beside `take`."""
        ...

    @property
    def waited(self) -> float:
        """Time that `take` has spent waiting for that."""
        ...

    def take(self, step: int, first: int, last: int) -> Contents:
        """The places [first, last) of a step's batch."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


@dataclass(frozen=True, slots=True)
class Resident:
    """The order `full`: all numbers in memory, all frames in a file that every process maps."""

    order: Order
    samples: Samples
    steps: Steps
    frames: Frames
    seconds: float = 0.0
    waited: float = 0.0

    @classmethod
    def read(cls, order: Order, samples: Samples, dataset: Recordings, frames: Frames) -> Self:
        return cls(order, samples, read_all_steps(samples, dataset), frames)

    def take(self, step: int, first: int, last: int) -> Contents:
        sample_B = self.order.samples(step)[first:last]
        windows = self.samples.windows
        episode, within = windows.locate(sample_B)
        numbers = self.samples.numbers(self.steps, windows.window(episode, within), windows.start(episode))
        return Contents(numbers, self.frames.take(self.frames.rows(self.samples.observed(sample_B))))

    def close(self) -> None:
        """Nothing to do: the file is unmapped with this object."""


def assemble(
    samples: Samples,
    sample_B: Int64[np.ndarray, "B"],
    contents: Contents,
    *,
    noise_BPHA: Float32[np.ndarray, "B P H A"],
    time_BP: Float32[np.ndarray, "B P"],
    weight_total: float,
) -> Batch:
    """The given samples with the given randomness."""
    window, spec = samples.windows.window(*samples.windows.locate(sample_B)), samples.windows.spec
    weight_BPHA = np.zeros(noise_BPHA.shape, dtype=np.float32)
    weight_BPHA[..., : samples.weighted_dims] = window.weight_BPH[..., None]
    padding = [(0, 0), (0, 0), (0, 0), (0, spec.padded_action_dims)]
    return Batch(
        obs=observe(samples, sample_B, contents),
        actions_BPHA=torch.from_numpy(np.pad(contents.numbers.actions_BPHA, padding)),
        weight_BPHA=torch.from_numpy(weight_BPHA),
        noise_BPHA=torch.from_numpy(noise_BPHA),
        time_BPH=torch.from_numpy(np.repeat(time_BP[:, :, None], spec.action_horizon, axis=2)),
        sample_uid_B=torch.from_numpy(samples.sample_uid(sample_B)),
        weight_total=weight_total,
    )


def observe(samples: Samples, sample_B: Int64[np.ndarray, "B"], contents: Contents) -> Observation:
    """What a policy sees of the given samples."""
    episode, step = samples.windows.locate(sample_B)
    window = samples.windows.window(episode, step)
    b, t, v = contents.pixels_BTVCYX.shape[:3]
    ids_BTL, is_pad_BTL = samples.tokens(sample_B, contents.numbers.state_BTS)
    return Observation(
        images_BTVCYX=torch.from_numpy(contents.pixels_BTVCYX),
        image_is_pad_BTV=torch.zeros(b, t, v, dtype=torch.bool),
        state_BTS=torch.from_numpy(contents.numbers.state_BTS),
        tokens_BTL=torch.from_numpy(ids_BTL),
        token_is_pad_BTL=torch.from_numpy(is_pad_BTL),
        step_is_pad_BT=torch.from_numpy(window.step_is_pad_BT),
        time_BT=torch.from_numpy(contents.numbers.time_BT),
        depth_BTVYX=None,
        intrinsics_BTV33=None,
        poses_BTV44=None,
        features={},
    )


class TrainingOrder:
    """The batches of a training run."""

    def __init__(
        self, samples: Samples, order: Order, supply: Supply, *, seed: int, batch_size: int, augment: AugmentConfig
    ) -> None:
        augment.check_views(samples.windows.spec.views)
        self.samples, self.seed, self.batch_size, self.augment = samples, seed, batch_size, augment
        self.steps_per_epoch = order.steps_per_epoch
        self._order, self._supply = order, supply
        self._whole = lru_cache(maxsize=2)(self._look_up)
        self._assembling = 0.0
        self.made = 0
        """Samples in all batches so far."""

    @property
    def seconds(self) -> float:
        """What making them has taken, with reading and assembling side by side."""
        return max(self._assembling, self._supply.seconds)

    def sample_indices(self, step: int) -> Int64[np.ndarray, "B"]:
        """The samples of the whole optimizer step, over all ranks and micro-batches."""
        return self._whole(step)[0]

    def batch(self, step: int, first: int, last: int) -> Batch:
        """The micro-batch of positions [first, last) of a step, with the step's total weight."""
        started, waited = time.perf_counter(), self._supply.waited
        sample_B, weight_total = self._whole(step)
        spec = self.samples.windows.spec
        shape = (spec.predict_steps, spec.action_horizon, spec.action_dim)
        presentations = range(step * self.batch_size + first, step * self.batch_size + last)
        keys = [(presentation,) for presentation in presentations]
        contents = self._supply.take(step, first, last)
        for pixels_TVCYX, presentation in zip(contents.pixels_BTVCYX, presentations, strict=True):
            augment(pixels_TVCYX, self.augment, views=spec.views, seed=self.seed, presentation=presentation)
        batch = assemble(
            self.samples,
            sample_B[first:last],
            contents,
            noise_BPHA=keyed.normals(self.seed, "noise", keys, shape=shape),
            time_BP=time_from_uniform(keyed.uniforms(self.seed, "time", keys, count=spec.predict_steps)),
            weight_total=weight_total,
        )
        self.made += last - first
        self._assembling += time.perf_counter() - started - (self._supply.waited - waited)
        return batch

    def names(self, step: int, first: int, last: int) -> list[str]:
        """The samples of positions [first, last) as a person finds them again."""
        table = self.samples.table
        episode_B, step_B = self.samples.windows.locate(self.sample_indices(step)[first:last])
        return [
            f"{table.sources[table.source_E[episode]]} episode {own_id(int(table.episode_id_E[episode]))} step {step}"
            for episode, step in zip(episode_B, step_B, strict=True)
        ]

    def close(self) -> None:
        """Stop reading."""
        self._supply.close()

    def _look_up(self, step: int) -> tuple[Int64[np.ndarray, "B"], float]:
        sample_B = self._order.samples(step)
        return sample_B, self.samples.chunk_weight(sample_B)
