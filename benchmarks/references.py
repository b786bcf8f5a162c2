"""What the statistics are compared with: the same numbers by numpy, and a pass over all frames as a loader makes it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
from recorded import ACTION, STATE, Recorded, data_file

HORIZON, BATCH, BINS = 32, 32, 5000


def columns_of(path: Path) -> list[np.ndarray]:
    table = pq.read_table(path, columns=[STATE, ACTION])
    return [table[name].combine_chunks().flatten().to_numpy().reshape(len(table), -1) for name in (STATE, ACTION)]


def by_numpy(data: Recorded) -> list[np.ndarray]:
    """Quantiles of state and actions, [3, D] each; moments are computed and dropped."""
    episodes = [columns_of(data_file(data.root, number)) for number in data.lengths]
    quantiles = []
    for parts in zip(*episodes, strict=True):
        values = np.concatenate(parts).astype(np.float64)
        values.mean(axis=0), values.std(axis=0)
        quantiles.append(np.quantile(values, [0.01, 0.5, 0.99], axis=0))
    return quantiles


def chunks_by_numpy(data: Recorded) -> np.ndarray:
    """Quantiles of the actions of all chunks, [3, D]."""
    chunks = []
    for number in data.lengths:
        _, actions = columns_of(data_file(data.root, number))
        index = np.minimum(np.arange(len(actions))[:, None] + np.arange(HORIZON), len(actions) - 1)
        chunks.append(actions[index].reshape(-1, actions.shape[1]))
    values = np.concatenate(chunks).astype(np.float64)
    values.mean(axis=0), values.std(axis=0)
    return np.quantile(values, [0.01, 0.5, 0.99], axis=0)


class Histograms:
    """Running moments and histograms per dimension."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, 0.0, 0.0
        self.low = self.high = self.bins = None

    def update(self, vectors: np.ndarray) -> None:
        values = vectors.astype(np.float64)
        self.count += len(values)
        self.sum, self.squares = self.sum + values.sum(axis=0), self.squares + (values**2).sum(axis=0)
        low, high = values.min(axis=0), values.max(axis=0) + 1e-9
        if self.bins is None:
            self.low, self.high, self.bins = low, high, np.zeros((values.shape[1], BINS))
        elif (low < self.low).any() or (high > self.high).any():
            self._widen(np.minimum(low, self.low), np.maximum(high, self.high))
        for dim, column in enumerate(values.T):
            self.bins[dim] += np.histogram(column, BINS, (self.low[dim], self.high[dim]))[0]

    def _widen(self, low: np.ndarray, high: np.ndarray) -> None:
        for dim, counts in enumerate(self.bins):
            old = np.linspace(self.low[dim], self.high[dim], BINS + 1)[:-1]
            self.bins[dim] = np.histogram(old, BINS, (low[dim], high[dim]), weights=counts)[0]
        self.low, self.high = low, high


def by_histograms(data: Recorded, frames: int, decode: Callable[[int, int], object]) -> int:
    """Go through the first frames one by one; returns how many there were. `decode` is called for each."""
    state, actions = Histograms(), Histograms()
    batch: list[tuple[np.ndarray, np.ndarray]] = []
    done = 0
    for episode, step, states, chunks in samples(data):
        decode(episode, step)
        batch.append((states[step], chunks[np.minimum(np.arange(step, step + HORIZON), len(chunks) - 1)]))
        done += 1
        if len(batch) == BATCH or done == frames:
            state.update(np.stack([item[0] for item in batch]))
            actions.update(np.concatenate([item[1] for item in batch]))
            batch = []
        if done == frames:
            break
    return done


def samples(data: Recorded) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    for episode, length in data.lengths.items():
        states, actions = columns_of(data_file(data.root, episode))
        for step in range(length):
            yield episode, step, states, actions


def opener(data: Recorded) -> Callable[[int, int], None]:
    """Decodes the frames of a step, each out of a freshly opened video."""

    def decode(episode: int, step: int) -> None:
        for view in data.views:
            with av.open(str(data.video(view, episode))) as container:
                stream = container.streams.video[0]
                container.seek(round(step / stream.average_rate / stream.time_base), stream=stream)
                frame = next(f for f in container.decode(stream) if f.time > (step - 0.5) / stream.average_rate)
                frame.to_ndarray(format="rgb24")

    return decode


def follower(data: Recorded) -> Callable[[int, int], None]:
    """Decodes the frames of a step out of videos that are read on."""
    playing: dict[str, Any] = {}

    def decode(episode: int, step: int) -> None:
        for view in data.views:
            if step == 0:
                playing[view] = av.open(str(data.video(view, episode))).decode(video=0)
            next(playing[view]).to_ndarray(format="rgb24")

    return decode
