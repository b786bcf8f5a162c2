"""Pieces of episodes that are read together: the unit that the order `blocks` permutes.

Random single steps cost a seek each: a Parquet row group or a video from its key frame. So steps that lie between two
places at which reading can begin stay together; blocks shorter than `SHORTEST` are joined with their neighbours.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from vla.data.episodes import EpisodeTable
from vla.errors import DataError

SHORTEST = 32
"""Of the blocks that begin within so many steps, only the first begins a piece."""
UNKNOWN = 256
"""Steps of a piece where the episode table does not say at which steps reading can begin."""
Indices = Int64[np.ndarray, "K"]


@dataclass(frozen=True, slots=True)
class Pieces:
    """A sequence of pieces, each a run of consecutive samples."""

    start_K: Indices
    """First sample of each piece."""
    end_K: Indices
    """Number of samples in the sequence up to the end of each piece."""

    @classmethod
    def make(cls, start_K: Indices, length_K: Indices) -> Self:
        return cls(start_K, np.cumsum(length_K))

    @classmethod
    def of(cls, table: EpisodeTable) -> tuple[Self, Indices]:
        """All samples of the table in its order, cut into pieces, and each piece's episode (row of the table)."""
        length_E = table.length_E
        first_E = np.cumsum(length_E) - length_E
        episode_K, start_K = _starts(table.blocks, length_E)
        order = np.argsort(first_E[episode_K] + start_K, kind="stable")
        episode_K, start_K = episode_K[order], (first_E[episode_K] + start_K)[order]
        # Every episode has a piece that begins at its first step, so a piece ends where the next one begins.
        length_K = np.diff(start_K, append=length_E.sum())
        return cls.make(start_K, length_K), episode_K

    @classmethod
    def join(cls, parts: list["Pieces"]) -> Self:
        """The sequences one after the other."""
        lengths = [part.length_K for part in parts]
        return cls.make(np.concatenate([part.start_K for part in parts]), np.concatenate(lengths))

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.start_K)

    @property
    def length_K(self) -> Indices:
        """Samples in each piece."""
        return np.diff(self.end_K, prepend=0)

    @property
    def num_samples(self) -> int:
        return int(self.end_K[-1]) if len(self) else 0

    def take(self, index_K: Indices) -> "Pieces":
        """The pieces of the given numbers in their order."""
        return Pieces.make(self.start_K[index_K], self.length_K[index_K])

    def cut(self, begin: int, end: int) -> "Pieces":
        """The places [begin, end) of the sequence; pieces at the ends are shortened."""
        length_K = np.minimum(self.end_K, end) - np.maximum(self.end_K - self.length_K, begin)
        skipped_K = np.maximum(begin - (self.end_K - self.length_K), 0)
        kept = length_K > 0
        return Pieces.make((self.start_K + skipped_K)[kept], length_K[kept])

    def samples(self, place_N: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
        """The samples at the given places of the sequence."""
        piece_N = np.searchsorted(self.end_K, place_N, side="right")
        # Counted from the end of the piece, so that lengths need not be known.
        first_N = np.where(piece_N > 0, self.end_K[piece_N - 1], 0)
        return self.start_K[piece_N] + place_N - first_N


def _starts(blocks: pa.ChunkedArray | None, length_E: Int64[np.ndarray, "E"]) -> tuple[Indices, Indices]:
    """Episode and first step of every piece, in no order."""
    count_E = np.zeros(len(length_E), dtype=np.int64)
    if blocks is None:
        return _evenly_spaced(np.flatnonzero(count_E == 0), length_E)
    count_E[:] = pc.list_value_length(blocks).fill_null(0).to_numpy()
    step_G = pc.list_flatten(blocks).to_numpy().astype(np.int64)
    episode_G = np.repeat(np.arange(len(length_E)), count_E)
    is_first_G = np.diff(episode_G, prepend=-1) > 0
    wrong_G = (step_G >= length_E[episode_G]) | (is_first_G & (step_G != 0))
    if wrong_G.any():
        found = int(np.argmax(wrong_G))
        raise DataError(
            f"episode table, row {episode_G[found]}: expected blocks that begin at 0 and below its "
            f"{length_E[episode_G[found]]} steps, found one at {step_G[found]}. Run 'dvc repro -f -s validate'."
        )
    begins_G = is_first_G | (np.diff(step_G // SHORTEST, prepend=-1) != 0)
    spaced = _evenly_spaced(np.flatnonzero(count_E == 0), length_E)
    return np.concatenate([episode_G[begins_G], spaced[0]]), np.concatenate([step_G[begins_G], spaced[1]])


def _evenly_spaced(episode_U: Indices, length_E: Int64[np.ndarray, "E"]) -> tuple[Indices, Indices]:
    """Episode and first step of pieces of `UNKNOWN` steps."""
    count_U = -(-length_E[episode_U] // UNKNOWN)
    number_K = np.arange(count_U.sum()) - np.repeat(np.cumsum(count_U) - count_U, count_U)
    return np.repeat(episode_U, count_U), number_K * UNKNOWN
