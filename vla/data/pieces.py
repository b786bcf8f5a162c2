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
Indices = Int64[np.ndarray, "P"]


@dataclass(frozen=True, slots=True)
class Pieces:
    """A sequence of pieces, each a run of consecutive samples."""

    start_P: Indices
    """First sample of each piece."""
    end_P: Indices
    """Number of samples in the sequence up to the end of each piece."""

    @classmethod
    def make(cls, start_P: Indices, length_P: Indices) -> Self:
        return cls(start_P, np.cumsum(length_P))

    @classmethod
    def of(cls, table: EpisodeTable) -> tuple[Self, Indices]:
        """All samples of the table in its order, cut into pieces, and each piece's episode (row of the table)."""
        length_E = table.length_E
        first_E = np.cumsum(length_E) - length_E
        episode_P, start_P = _starts(table.blocks, length_E)
        order = np.argsort(first_E[episode_P] + start_P, kind="stable")
        episode_P, start_P = episode_P[order], (first_E[episode_P] + start_P)[order]
        # Every episode has a piece that begins at its first step, so a piece ends where the next one begins.
        length_P = np.diff(start_P, append=length_E.sum())
        return cls.make(start_P, length_P), episode_P

    @classmethod
    def join(cls, parts: list["Pieces"]) -> Self:
        """The sequences one after the other."""
        lengths = [part.length_P for part in parts]
        return cls.make(np.concatenate([part.start_P for part in parts]), np.concatenate(lengths))

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.start_P)

    @property
    def length_P(self) -> Indices:
        """Samples in each piece."""
        return np.diff(self.end_P, prepend=0)

    @property
    def num_samples(self) -> int:
        return int(self.end_P[-1]) if len(self) else 0

    def take(self, index_P: Indices) -> "Pieces":
        """The pieces of the given numbers in their order."""
        return Pieces.make(self.start_P[index_P], self.length_P[index_P])

    def cut(self, begin: int, end: int) -> "Pieces":
        """The places [begin, end) of the sequence; pieces at the ends are shortened."""
        length_P = np.minimum(self.end_P, end) - np.maximum(self.end_P - self.length_P, begin)
        skipped_P = np.maximum(begin - (self.end_P - self.length_P), 0)
        kept = length_P > 0
        return Pieces.make((self.start_P + skipped_P)[kept], length_P[kept])

    def samples(self, place_N: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
        """The samples at the given places of the sequence."""
        piece_N = np.searchsorted(self.end_P, place_N, side="right")
        # Counted from the end of the piece, so that lengths need not be known.
        first_N = np.where(piece_N > 0, self.end_P[piece_N - 1], 0)
        return self.start_P[piece_N] + place_N - first_N


def _starts(blocks: pa.ChunkedArray | None, length_E: Int64[np.ndarray, "E"]) -> tuple[Indices, Indices]:
    """Episode and first step of every piece, in no order."""
    count_E = np.zeros(len(length_E), dtype=np.int64)
    if blocks is None:
        return _evenly_spaced(np.flatnonzero(count_E == 0), length_E)
    count_E[:] = pc.list_value_length(blocks).fill_null(0).to_numpy()
    step_K = pc.list_flatten(blocks).to_numpy().astype(np.int64)
    episode_K = np.repeat(np.arange(len(length_E)), count_E)
    is_first_K = np.diff(episode_K, prepend=-1) > 0
    wrong_K = (step_K >= length_E[episode_K]) | (is_first_K & (step_K != 0))
    if wrong_K.any():
        found = int(np.argmax(wrong_K))
        raise DataError(
            f"episode table, row {episode_K[found]}: expected blocks that begin at 0 and below its "
            f"{length_E[episode_K[found]]} steps, found one at {step_K[found]}. Run 'dvc repro -f -s validate'."
        )
    begins_K = is_first_K | (np.diff(step_K // SHORTEST, prepend=-1) != 0)
    spaced = _evenly_spaced(np.flatnonzero(count_E == 0), length_E)
    return np.concatenate([episode_K[begins_K], spaced[0]]), np.concatenate([step_K[begins_K], spaced[1]])


def _evenly_spaced(episode_U: Indices, length_E: Int64[np.ndarray, "E"]) -> tuple[Indices, Indices]:
    """Episode and first step of pieces of `UNKNOWN` steps."""
    count_U = -(-length_E[episode_U] // UNKNOWN)
    number_P = np.arange(count_U.sum()) - np.repeat(np.cumsum(count_U) - count_U, count_U)
    return np.repeat(episode_U, count_U), number_P * UNKNOWN
