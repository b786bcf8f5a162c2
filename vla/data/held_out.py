"""Held-out samples that a training is measured on, with noise that is keyed by what a sample is.

What is measured depends on no batch size, worker count or step, so it is comparable between steps and between runs.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vla import keyed
from vla.action_errors import ActionScale, ErrorSums
from vla.data.frames import Frames
from vla.data.loader import assemble, observe
from vla.data.samples import Contents, Numbers, Samples, by_episode, read_numbers
from vla.data.windows import recorded_chunks
from vla.errors import DataError
from vla.formats import Recordings
from vla.models.flow_matching import time_grid
from vla.models.policy import Batch, Observation

CANDIDATES = 100_000
"""Held-out samples among which those that are measured on are chosen; where there are more, of some episodes."""


def held_out(samples: Samples, count: int) -> Int64[np.ndarray, "K"]:
    """`count` samples, ascending, that are chosen by what they are: others join or leave without changing the rest."""
    uids = np.array([keyed.uid("validation", uid) for uid in samples.table.uid_E.tolist()])
    order = np.argsort(uids)
    enough = np.searchsorted(np.cumsum(samples.windows.length_E[order]), max(CANDIDATES, count)) + 1
    episodes = np.sort(order[:enough])
    starts, ends = samples.windows.start(episodes), samples.windows.end_E[episodes]
    candidates = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
    keys = [keyed.uid("validation", uid) for uid in samples.sample_uid(candidates).tolist()]
    return np.sort(candidates[np.argsort(keys)[:count]])


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Chosen samples and what is recorded of them."""

    samples: Samples
    sample_K: Int64[np.ndarray, "K"]
    """Ascending."""
    numbers: Numbers
    frames: Frames
    """Of what they observe, and maybe of more."""

    @classmethod
    def read(cls, samples: Samples, sample_K: Int64[np.ndarray, "K"], *, dataset: Recordings, frames: Frames) -> Self:
        return cls(samples, sample_K, read_numbers(samples, dataset, sample_K), frames)

    def contents(self, place_B: Int64[np.ndarray, "B"]) -> Contents:
        """Of the samples in the given places."""
        rows_BT = self.frames.rows(self.samples.observed(self.sample_K[place_B]))
        return Contents(self.numbers.take(place_B), self.frames.take(rows_BT))


class ValidationOrder:
    """Batches for the flow loss: every sample at each of `num_times` fixed flow times.

    Raises DataError when all samples lie after a terminal step: their loss would be 0 whatever is learned.
    """

    def __init__(self, held: HeldOut, *, seed: int, num_times: int) -> None:
        self.held, self.seed, self.times = held, seed, time_grid(num_times)
        windows = held.samples.windows
        if not windows.window(*windows.locate(held.sample_K)).weight_BPH.any():
            raise _nothing_counts(held.sample_K, setting="validation_samples")
        self.weight_total = held.samples.chunk_weight(held.sample_K) * num_times

    def __len__(self) -> int:
        """Number of (sample, time) pairs."""
        return len(self.held.sample_K) * len(self.times)

    def batch(self, first: int, last: int) -> Batch:
        """The pairs [first, last) in sample-major order."""
        samples, spec = self.held.samples, self.held.samples.windows.spec
        place_B, grid_B = np.divmod(np.arange(first, last), len(self.times))
        sample_B = self.held.sample_K[place_B]
        shape = (spec.predict_steps, spec.action_horizon, spec.action_dim)
        keys = zip(samples.sample_uid(sample_B).tolist(), grid_B.tolist(), strict=True)
        return assemble(
            samples,
            sample_B,
            self.held.contents(place_B),
            noise_BPHA=keyed.normals(self.seed, "validation", keys, shape=shape),
            time_BP=np.repeat(self.times[grid_B][:, None], spec.predict_steps, axis=1),
            weight_total=self.weight_total,
        )


@dataclass(frozen=True, slots=True)
class Chunks:
    """What K samples have recorded from their last step on, in raw units."""

    actions_KHA: Float32[np.ndarray, "K H A"]
    weight_KH: Float32[np.ndarray, "K H"]
    """1 where the action was recorded and is supervised, else 0."""
    state_KS: Float32[np.ndarray, "K S"]
    """What each chunk starts from."""

    @classmethod
    def read(cls, samples: Samples, sample_K: Int64[np.ndarray, "K"], *, dataset: Recordings) -> Self:
        """Those of the given samples, ascending; raises DataError when all of them lie after a terminal step."""
        parts = []
        for steps, episode_N, step_N in by_episode(samples, dataset, sample_K):
            supervised = int(samples.table.supervised_E[episode_N[0]])
            chunks = recorded_chunks(steps, step_N, supervised=supervised, spec=samples.windows.spec)
            parts.append((*chunks, steps.state_TS[step_N]))
        made = cls(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        if not made.weight_KH.any():
            raise _nothing_counts(sample_K, setting="validation_actions")
        return made


def _nothing_counts(sample_K: Int64[np.ndarray, "K"], *, setting: str) -> DataError:
    return DataError(
        f"train.{setting}: expected actions before a terminal step among the {len(sample_K)} chosen held-out samples, "
        f"found none. Choose more samples."
    )


@dataclass(frozen=True, slots=True)
class ActionOrder:
    """Batches for the error of sampled actions: of every sample, the chunk that starts at its last step.

    The policy sees a sample's window as in training, and has the memory of an episode's start.
    """

    held: HeldOut
    chunks: Chunks
    scale: ActionScale
    seed: int
    num_steps: int
    """Euler steps from noise to actions."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.held.sample_K)

    def batch(self, first: int, last: int) -> tuple[Observation, Float32[Tensor, "B H A"]]:
        """What the samples [first, last) observe, and the noise that their chunks start from."""
        samples, spec = self.held.samples, self.held.samples.windows.spec
        place_B = np.arange(first, last)
        sample_B = self.held.sample_K[place_B]
        keys = [(uid,) for uid in samples.sample_uid(sample_B).tolist()]
        noise_BHA = keyed.normals(self.seed, "sampling", keys, shape=(spec.action_horizon, spec.action_dim))
        return observe(samples, sample_B, self.held.contents(place_B)), torch.from_numpy(noise_BHA)

    def errors(self, first: int, last: int, chunks_BHA: Float32[np.ndarray, "B H A"]) -> ErrorSums:
        """Those of the given chunks, normalised, of the samples [first, last), in units of `scale`."""
        rows, samples = slice(first, last), self.held.samples
        real_BHA = chunks_BHA[..., : samples.windows.spec.real_action_dim]
        sampled_BHA = samples.processor.restore_actions(real_BHA, self.chunks.state_KS[rows])
        return ErrorSums.of(sampled_BHA - self.chunks.actions_KHA[rows], self.chunks.weight_KH[rows]).scaled(self.scale)
