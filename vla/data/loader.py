"""Batches as a pure function of (seed, step): what a sample is, its place in the order and all its randomness.

Nothing here has a position or a generator state, so a resume needs two integers, and ranks agree on every batch
without talking. Step s takes the positions [s * B, (s + 1) * B) of the presentation order; each epoch is a keyed
permutation of all samples, cut to whole batches.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64

from vla import keyed
from vla.augmentation import AugmentConfig, shift, shift_offsets
from vla.data.episodes import EpisodeTable
from vla.data.frames import Frames
from vla.data.windows import Windows
from vla.errors import ConfigError, DataError
from vla.formats import Recordings
from vla.models.flow_matching import time_from_uniform, time_grid
from vla.models.policy import Batch, Observation
from vla.transforms import Processor


@dataclass(frozen=True, slots=True)
class Samples:
    """The numeric columns of a set of episodes in normalised space, and where its windows lie."""

    table: EpisodeTable
    windows: Windows
    state_NS: Float32[np.ndarray, "N S"]
    actions_NA: Float32[np.ndarray, "N A"]
    time_N: Float64[np.ndarray, "N"]
    tokens_IL: Int64[np.ndarray, "I L"]
    """Per distinct instruction."""
    token_is_pad_IL: Bool[np.ndarray, "I L"]
    frames: Frames

    def __len__(self) -> int:
        return len(self.windows)

    def chunk_weight(self, sample_B: Int64[np.ndarray, "B"]) -> float:
        """Sum of the weights of the given samples' chunks, without reading them."""
        episode, step = self.windows.locate(sample_B)
        return float(self.windows.window(episode, step).weight_BPH.sum(dtype=np.float64)) * self.actions_NA.shape[1]

    def sample_uid(self, sample_B: Int64[np.ndarray, "B"]) -> Int64[np.ndarray, "B"]:
        """Identity of each sample: its episode's uid plus its step, wrapped to 64 bits."""
        episode, step = self.windows.locate(sample_B)
        return self.table.uid_E[episode] + step


def read_samples(
    table: EpisodeTable, *, dataset: Recordings, processor: Processor, windows: Windows, frames: Frames
) -> Samples:
    """Read and normalise the numeric columns of the table's episodes."""
    steps = [dataset.steps(episode) for episode in table.episode_id_E.tolist()]
    for episode, expected, found in zip(table.episode_id_E, table.length_E, steps, strict=True):
        if len(found) != expected:
            raise DataError(
                f"episode {episode}: expected {expected} steps, found {len(found)}. Run 'dvc repro validate'."
            )
    ids, pads = zip(*(processor.tokenize(text) for text in table.instructions), strict=True)
    return Samples(
        table=table,
        windows=windows,
        state_NS=processor.state.forward(np.concatenate([item.state_TS for item in steps])),
        actions_NA=processor.actions.forward(np.concatenate([item.actions_TA for item in steps])),
        time_N=np.concatenate([item.timestamp_T for item in steps]),
        tokens_IL=np.stack(ids),
        token_is_pad_IL=np.stack(pads),
        frames=frames,
    )


def assemble(
    samples: Samples,
    sample_B: Int64[np.ndarray, "B"],
    *,
    noise_BPHA: Float32[np.ndarray, "B P H A"],
    time_BP: Float32[np.ndarray, "B P"],
    weight_total: float,
    offsets_BV2: Int64[np.ndarray, "B V 2"] | None = None,
) -> Batch:
    """Gather the given samples with the given randomness."""
    episode, step = samples.windows.locate(sample_B)
    window = samples.windows.window(episode, step)
    start = samples.windows.end_E[episode] - samples.windows.length_E[episode]
    rows_BT = start[:, None] + window.observed_BT
    pixels = samples.frames.pixels_NVCYX[rows_BT]
    if offsets_BV2 is not None:
        pixels = np.stack(
            [
                np.stack([shift(images, offsets) for images in sample])
                for sample, offsets in zip(pixels, offsets_BV2, strict=True)
            ]
        )
    b, t, v = pixels.shape[:3]
    instruction = samples.table.instruction_E[episode]
    actions = samples.actions_NA[start[:, None, None] + window.actions_BPH]
    obs = Observation(
        images_BTVCYX=torch.from_numpy(pixels),
        image_is_pad_BTV=torch.zeros(b, t, v, dtype=torch.bool),
        state_BTS=torch.from_numpy(samples.state_NS[rows_BT]),
        tokens_BTL=torch.from_numpy(samples.tokens_IL[instruction]).unsqueeze(1).expand(-1, t, -1),
        token_is_pad_BTL=torch.from_numpy(samples.token_is_pad_IL[instruction]).unsqueeze(1).expand(-1, t, -1),
        step_is_pad_BT=torch.from_numpy(window.step_is_pad_BT),
        time_BT=torch.from_numpy(samples.time_N[rows_BT].astype(np.float32)),
        depth_BTVYX=None,
        intrinsics_BTV33=None,
        poses_BTV44=None,
        features={},
    )
    return Batch(
        obs=obs,
        actions_BPHA=torch.from_numpy(actions),
        weight_BPHA=torch.from_numpy(np.broadcast_to(window.weight_BPH[..., None], actions.shape).copy()),
        noise_BPHA=torch.from_numpy(noise_BPHA),
        time_BPH=torch.from_numpy(np.repeat(time_BP[:, :, None], actions.shape[2], axis=2)),
        sample_uid_B=torch.from_numpy(samples.sample_uid(sample_B)),
        weight_total=weight_total,
    )


class TrainingOrder:
    """The batches of a training run."""

    def __init__(self, samples: Samples, *, seed: int, batch_size: int, augment: AugmentConfig) -> None:
        if len(samples) < batch_size:
            raise ConfigError(
                f"train.batch_size: expected at most the {len(samples)} samples of the train split, "
                f"found {batch_size}. Lower it or add data."
            )
        self.samples, self.seed, self.batch_size, self.augment = samples, seed, batch_size, augment
        self.steps_per_epoch = len(samples) // batch_size
        self._permutation = lru_cache(maxsize=2)(self._permute)

    def sample_indices(self, step: int) -> Int64[np.ndarray, "B"]:
        """The samples of the whole optimizer step, over all ranks and micro-batches."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._permutation(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def batch(self, step: int, first: int, last: int) -> Batch:
        """The micro-batch of positions [first, last) of a step, with the step's total weight."""
        whole = self.sample_indices(step)
        spec = self.samples.windows.spec
        shape = (spec.predict_steps, spec.action_horizon, spec.action_dim)
        presentations = range(step * self.batch_size + first, step * self.batch_size + last)
        noise = np.stack([keyed.normal(self.seed, "noise", i, shape=shape) for i in presentations])
        unit = np.stack([keyed.uniform(self.seed, "time", i, count=spec.predict_steps) for i in presentations])
        offsets = None
        if self.augment.shift_px:
            offsets = np.stack([shift_offsets(self.augment, self.seed, i, len(spec.views)) for i in presentations])
        return assemble(
            self.samples,
            whole[first:last],
            noise_BPHA=noise,
            time_BP=time_from_uniform(unit),
            weight_total=self.samples.chunk_weight(whole),
            offsets_BV2=offsets,
        )

    def _permute(self, epoch: int) -> Int64[np.ndarray, "N"]:
        return keyed.permutation(self.seed, "order", epoch, count=len(self.samples))


class ValidationOrder:
    """A fixed set of held-out samples, each at fixed flow times with noise keyed by the sample's identity.

    The loss over it depends on no batch size, worker count or step, so it is comparable between runs.
    """

    def __init__(self, samples: Samples, *, seed: int, num_samples: int, num_times: int) -> None:
        order = np.argsort(
            [keyed.uid("validation", uid) for uid in samples.sample_uid(np.arange(len(samples))).tolist()]
        )
        self.samples, self.seed = samples, seed
        self.indices = np.sort(order[:num_samples]).astype(np.int64)
        self.times = time_grid(num_times)
        self.weight_total = samples.chunk_weight(self.indices) * num_times

    def __len__(self) -> int:
        """Number of (sample, time) pairs."""
        return len(self.indices) * len(self.times)

    def batch(self, first: int, last: int) -> Batch:
        """The pairs [first, last) in sample-major order."""
        spec = self.samples.windows.spec
        pairs = np.arange(first, last)
        sample_B, grid_B = self.indices[pairs // len(self.times)], pairs % len(self.times)
        shape = (spec.predict_steps, spec.action_horizon, spec.action_dim)
        identities = zip(self.samples.sample_uid(sample_B).tolist(), grid_B.tolist(), strict=True)
        noise = np.stack([keyed.normal(self.seed, "validation", *identity, shape=shape) for identity in identities])
        time_BP = np.repeat(self.times[grid_B][:, None], spec.predict_steps, axis=1)
        return assemble(self.samples, sample_B, noise_BPHA=noise, time_BP=time_BP, weight_total=self.weight_total)
