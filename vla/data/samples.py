"""What the samples of a split are, and the recorded numbers that they are made of.

Numbers are kept as recorded and normalised when a sample is made: delta actions need the state at the start of their
chunk. A sample's frames are in vla/data/frames.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from vla import prompts
from vla.data.episodes import FOREVER, EpisodeTable
from vla.data.windows import Window, Windows
from vla.errors import DataError
from vla.formats import Recordings
from vla.terms import PolicySpec, Steps
from vla.tokenization import Tokens
from vla.transforms import Processor

Indices = Int64[np.ndarray, "B"]


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numeric part of B samples, in normalised space."""

    state_BTS: Float32[np.ndarray, "B T S"]
    actions_BPHA: Float32[np.ndarray, "B P H A"]
    """Of the data's own dimensions."""
    time_BT: Float32[np.ndarray, "B T"]

    def take(self, rows: Indices | slice) -> "Numbers":
        return Numbers(self.state_BTS[rows], self.actions_BPHA[rows], self.time_BT[rows])

    @classmethod
    def join(cls, parts: list["Numbers"]) -> Self:
        """The samples of all parts, one after the other."""
        return cls(
            np.concatenate([part.state_BTS for part in parts]),
            np.concatenate([part.actions_BPHA for part in parts]),
            np.concatenate([part.time_BT for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Contents:
    """What is recorded of B samples; the pixels are the receiver's own."""

    numbers: Numbers
    pixels_BTVCYX: UInt8[np.ndarray, "B T V C Y X"]


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of a split: one per step, in dataset order. Memory is proportional to episodes."""

    table: EpisodeTable
    windows: Windows
    processor: Processor
    weighted_dims: int
    """Action dimensions that count in the loss, the first ones."""
    known: Tokens | None
    """Per distinct instruction; None where prompts depend on the state as well."""

    @classmethod
    def make(cls, table: EpisodeTable, spec: PolicySpec, processor: Processor, *, supervise_padded: bool) -> Self:
        """`supervise_padded`: the repeated actions after the end of an episode count like any other, and so do the
        zeros of padded dimensions."""
        supervised_E = np.full(len(table), FOREVER) if supervise_padded else table.supervised_E
        weighted_dims = spec.action_dim if supervise_padded else spec.real_action_dim
        windows, tokenize = Windows.make(table.length_E, supervised_E, spec), processor.tokenize
        known = None
        if prompts.reads_state(tokenize.prompt):
            tokenize.check_length(table.instructions, state_dim=spec.state_dim)
        else:
            known = tokenize.batch(table.instructions)
        return cls(table, windows, processor, weighted_dims, known)

    def __len__(self) -> int:
        return len(self.windows)

    def chunk_weight(self, sample_B: Indices) -> float:
        """Sum of the weights of the given samples' chunks, without reading them.

        1 where nothing is supervised, as after terminal steps: a loss over such samples is then 0 and not 0 / 0.
        """
        weight_BPH = self.windows.window(*self.windows.locate(sample_B)).weight_BPH
        return float(weight_BPH.sum(dtype=np.float64)) * self.weighted_dims or 1.0

    def sample_uid(self, sample_B: Indices) -> Indices:
        """Identity of each sample: its episode's uid plus its step, wrapped to 64 bits."""
        episode, step = self.windows.locate(sample_B)
        return self.table.uid_E[episode] + step

    def tokens(
        self, sample_B: Indices, state_BTS: Float32[np.ndarray, "B T S"]
    ) -> tuple[Int64[np.ndarray, "B T L"], Bool[np.ndarray, "B T L"]]:
        """What the policy reads at each step of the given samples, and what of it is padding."""
        b, t, s = state_BTS.shape
        episode_B, _ = self.windows.locate(sample_B)
        instruction_N = np.repeat(self.table.instruction_E[episode_B], t)
        if self.known is None:
            texts = [self.table.instructions[instruction] for instruction in instruction_N]
            ids_NL, is_pad_NL = self.processor.tokenize.batch(texts, state_BTS.reshape(b * t, s))
        else:
            ids_NL, is_pad_NL = (per_instruction[instruction_N] for per_instruction in self.known)
        return ids_NL.reshape(b, t, -1), is_pad_NL.reshape(b, t, -1)

    def observed(self, sample_B: Indices) -> Int64[np.ndarray, "B T"]:
        """The steps that each sample observes, as samples of those steps."""
        episode, step = self.windows.locate(sample_B)
        return self.windows.start(episode)[:, None] + self.windows.window(episode, step).observed_BT

    def numbers(self, recorded: Steps, window: Window, first_B: Indices | int) -> Numbers:
        """Gather and normalise; `first_B` is the row of `recorded` with the first step of each sample's episode."""
        first_B1 = np.asarray(first_B).reshape(-1, 1)
        rows_BT = first_B1 + window.observed_BT
        state_BTS = recorded.state_TS[rows_BT]
        actions_BPHA = recorded.actions_TA[first_B1[:, :, None] + window.actions_BPH]
        predicted = window.actions_BPH.shape[1]
        return Numbers(
            state_BTS=self.processor.state.forward(state_BTS),
            actions_BPHA=self.processor.normalise_actions(actions_BPHA, state_BTS[:, -predicted:]),
            # Clocks may begin anywhere, and float32 resolves a day's seconds only to hundredths.
            time_BT=(recorded.timestamp_T[rows_BT] - recorded.timestamp_T[first_B1]).astype(np.float32),
        )


def read_steps(samples: Samples, dataset: Recordings, episode: int) -> Steps:
    """The numeric columns of an episode (row of the table); raises DataError when its length has changed."""
    number, expected = int(samples.table.episode_id_E[episode]), samples.table.length_E[episode]
    steps = dataset.steps(number)
    if len(steps) != expected:
        raise DataError(f"episode {number}: expected {expected} steps, found {len(steps)}. Run 'dvc repro validate'.")
    return steps


def read_all_steps(samples: Samples, dataset: Recordings) -> Steps:
    """The numeric columns of all episodes, one after the other."""
    steps = [read_steps(samples, dataset, episode) for episode in range(len(samples.table))]
    return Steps(
        timestamp_T=np.concatenate([item.timestamp_T for item in steps]),
        state_TS=np.concatenate([item.state_TS for item in steps]),
        actions_TA=np.concatenate([item.actions_TA for item in steps]),
    )


def read_numbers(samples: Samples, dataset: Recordings, sample_B: Indices) -> Numbers:
    """The numbers of the given samples, read episode by episode, with one episode in memory at a time."""
    order = np.argsort(sample_B, kind="stable")
    parts = [
        samples.numbers(steps, samples.windows.window(episode_K, step_K), 0)
        for steps, episode_K, step_K in by_episode(samples, dataset, sample_B[order])
    ]
    return Numbers.join(parts).take(np.argsort(order, kind="stable"))


def by_episode(samples: Samples, dataset: Recordings, sample_B: Indices) -> Iterator[tuple[Steps, Indices, Indices]]:
    """For each episode of the given samples, ascending: its steps, and the samples' rows of the table and steps."""
    episode_B, step_B = samples.windows.locate(sample_B)
    for begin, end in runs(episode_B):
        yield read_steps(samples, dataset, int(episode_B[begin])), episode_B[begin:end], step_B[begin:end]


def runs(values_N: Int64[np.ndarray, "N"]) -> Iterator[tuple[int, int]]:
    """The longest ranges [begin, end) of equal values."""
    begins = np.flatnonzero(np.diff(values_N, prepend=values_N[:1] - 1))
    yield from zip(begins.tolist(), [*begins[1:].tolist(), len(values_N)], strict=True)
