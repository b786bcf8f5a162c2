"""Exact order statistics of float32 columns in two scans, in memory that does not grow with the number of rows.

A radix over keys that sort like the floats: the first scan counts the upper 16 bits of every value, which tells the
bucket of each wanted rank; the second counts the lower 16 bits inside those buckets. The price is the second scan and
0.5 MB per dimension for the first, as much again for every wanted rank. Sketches would need one scan and less memory,
but give other numbers than numpy.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt32

BUCKETS = 1 << 16


class OrderStatistics:
    """Values at given ranks of each dimension: `count_upper` all rows, `choose` ranks, `count_lower` all rows again."""

    def __init__(self, dims: int) -> None:
        self._dims = dims
        self._upper_DK = np.zeros((dims, BUCKETS), dtype=np.int64)
        self._bucket_RD = np.zeros((0, dims), dtype=np.int64)
        self._rank_RD = np.zeros((0, dims), dtype=np.int64)
        self._lower_RDK = np.zeros((0, dims, BUCKETS), dtype=np.int64)

    def count_upper(self, values_ND: Float32[np.ndarray, "N D"]) -> None:
        upper_ND = _keys(values_ND) >> 16
        np.add.at(self._upper_DK.reshape(-1), _cells(upper_ND).reshape(-1), 1)

    def choose(self, ranks_R: Int64[np.ndarray, "R"]) -> None:
        """Ranks counted from 0 at the smallest value."""
        up_to_DK = np.cumsum(self._upper_DK, axis=1)
        rank_RD = np.repeat(ranks_R[:, None], self._dims, axis=1)
        self._bucket_RD = _first_above(up_to_DK, rank_RD)
        before_DK = up_to_DK - self._upper_DK
        self._rank_RD = rank_RD - before_DK[np.arange(self._dims), self._bucket_RD]
        self._lower_RDK = np.zeros((len(ranks_R), self._dims, BUCKETS), dtype=np.int64)

    def count_lower(self, values_ND: Float32[np.ndarray, "N D"]) -> None:
        keys_ND = _keys(values_ND)
        cells_ND = _cells(keys_ND & (BUCKETS - 1))
        for bucket_D, lower_DK in zip(self._bucket_RD, self._lower_RDK, strict=True):
            np.add.at(lower_DK.reshape(-1), cells_ND[keys_ND >> 16 == bucket_D], 1)

    def values(self) -> Float32[np.ndarray, "R D"]:
        """The value at each chosen rank, in the order of the ranks."""
        up_to_RDK = np.cumsum(self._lower_RDK, axis=2)
        pairs = zip(up_to_RDK, self._rank_RD[:, None], strict=True)
        lower_RD = np.concatenate([_first_above(up_to_DK, rank_1D) for up_to_DK, rank_1D in pairs])
        return _floats((self._bucket_RD * BUCKETS + lower_RD).astype(np.uint32))


def ranks_around(
    probabilities_Q: Float64[np.ndarray, "Q"], count: int
) -> tuple[Int64[np.ndarray, "Q"], Int64[np.ndarray, "Q"], Float64[np.ndarray, "Q"]]:
    """Ranks below and above each quantile of `count` values, and how far it lies between them."""
    position_Q = probabilities_Q * (count - 1)
    below_Q = np.floor(position_Q).astype(np.int64)
    return below_Q, np.minimum(below_Q + 1, count - 1), position_Q - below_Q


def interpolate(
    below_QD: Float64[np.ndarray, "Q D"], above_QD: Float64[np.ndarray, "Q D"], fraction_Q: Float64[np.ndarray, "Q"]
) -> Float64[np.ndarray, "Q D"]:
    """Linear interpolation, rounded as numpy's quantile rounds it: counted from the nearer of the two values."""
    fraction_Q1 = fraction_Q[:, None]
    gap_QD = above_QD - below_QD
    return np.where(fraction_Q1 < 0.5, below_QD + gap_QD * fraction_Q1, above_QD - gap_QD * (1 - fraction_Q1))


def _keys(values: Float32[np.ndarray, "*shape"]) -> UInt32[np.ndarray, "*shape"]:
    """Unsigned integers that sort like the floats: IEEE 754 magnitudes, mirrored below zero."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _floats(keys: UInt32[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    bits = np.where(keys >> 31, keys & np.uint32((1 << 31) - 1), ~keys)
    return bits.view(np.float32)


def _cells(digits_ND: UInt32[np.ndarray, "N D"]) -> Int64[np.ndarray, "N D"]:
    """Place of each (dimension, digit) in a flat table of counters."""
    return digits_ND.astype(np.int64) + np.arange(digits_ND.shape[1]) * BUCKETS


def _first_above(up_to_DK: Int64[np.ndarray, "D K"], rank_RD: Int64[np.ndarray, "R D"]) -> Int64[np.ndarray, "R D"]:
    """Per dimension, the first bucket whose running count exceeds the rank."""
    columns = [
        np.searchsorted(up_to_K, rank_R, side="right") for up_to_K, rank_R in zip(up_to_DK, rank_RD.T, strict=True)
    ]
    return np.stack(columns, axis=1)
