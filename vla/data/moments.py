"""Exact statistics of weighted rows in two scans: mean and extremes first, then the squares about the mean.

Quantiles equal numpy's of the rows repeated as often as they weigh. Moments are sums in float64, column by column in
the order of the rows; rows are gathered into large blocks first, because an episode is too short to be worth a call
for every column.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from vla.data.quantiles import LARGEST, OrderStatistics, interpolate, ranks_around
from vla.errors import DataError
from vla.normalization import Statistics

QUANTILES = {"q01": 0.01, "q50": 0.5, "q99": 0.99}
BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class WeightedRows:
    """Rows of one quantity, and as how many equal rows each counts."""

    values_ND: Float32[np.ndarray, "N D"]
    weight_N: Int64[np.ndarray, "N"]

    @classmethod
    def once(cls, values_ND: Float32[np.ndarray, "N D"], weight: int = 1) -> "WeightedRows":
        """Rows that all count equally."""
        return cls(values_ND, np.full(len(values_ND), weight, dtype=np.int64))


Scan = Callable[[], Iterable[tuple[str, WeightedRows]]]
"""Gives rows, each with the name of their quantity; every call gives equal rows in equal order."""


def measure(scan: Scan, dims: Mapping[str, int]) -> dict[str, Statistics]:
    """Statistics of each quantity (name -> number of dimensions) over all its rows; `scan` is called twice.

    Raises DataError for a quantity without rows.
    """
    firsts = {name: _FirstScan(width) for name, width in dims.items()}
    for name, block in _blocks(scan()):
        firsts[name].add(block)
    seconds = {name: _SecondScan(first, name) for name, first in firsts.items()}
    for name, block in _blocks(scan()):
        seconds[name].add(block)
    return {name: second.statistics() for name, second in seconds.items()}


@dataclass(frozen=True, slots=True)
class _Block:
    """Many rows, column by column."""

    values_DN: Float32[np.ndarray, "D N"]
    weight_N: Float64[np.ndarray, "N"]

    @classmethod
    def of(cls, parts: list[WeightedRows]) -> "_Block":
        values_ND = np.concatenate([rows.values_ND for rows in parts])
        weight_N = np.concatenate([rows.weight_N for rows in parts])
        return cls(np.ascontiguousarray(values_ND.T), weight_N.astype(np.float64))


def _blocks(scanned: Iterable[tuple[str, WeightedRows]]) -> Iterator[tuple[str, _Block]]:
    """The same rows in blocks of BLOCK_ROWS or somewhat more, and what is left over."""
    waiting: dict[str, list[WeightedRows]] = {}
    counts: Counter[str] = Counter()
    for name, rows in scanned:
        waiting.setdefault(name, []).append(rows)
        counts[name] += len(rows.weight_N)
        if counts[name] >= BLOCK_ROWS:
            counts[name] = 0
            yield name, _Block.of(waiting.pop(name))
    yield from ((name, _Block.of(parts)) for name, parts in waiting.items())


class _FirstScan:
    """Count, sum, extremes and the upper digits of the quantiles."""

    def __init__(self, dims: int) -> None:
        self.ordered = [OrderStatistics() for _ in range(dims)]
        self.count, self.sum_D = 0, np.zeros(dims)
        self.low_D, self.high_D = np.full(dims, np.inf), np.full(dims, -np.inf)

    def add(self, block: _Block) -> None:
        self.count += int(block.weight_N.sum())
        self.low_D = np.minimum(self.low_D, block.values_DN.min(axis=1, initial=np.inf))
        self.high_D = np.maximum(self.high_D, block.values_DN.max(axis=1, initial=-np.inf))
        for dim, values_N in enumerate(block.values_DN):
            self.sum_D[dim] += (values_N * block.weight_N).sum()
            self.ordered[dim].count_upper(values_N, block.weight_N)


class _SecondScan:
    """The squares about the mean and the lower digits of the quantiles."""

    def __init__(self, first: _FirstScan, name: str) -> None:
        if not 0 < first.count < LARGEST:
            raise DataError(f"norm_stats: expected 1 to 2^53 rows of {name}, found {first.count}. Change the split.")
        self._first = first
        self._mean_D = first.sum_D / first.count
        self._squares_D = np.zeros(len(first.ordered))
        below_Q, above_Q, self._fraction_Q = ranks_around(np.array(list(QUANTILES.values())), first.count)
        for column in first.ordered:
            column.choose(np.concatenate([below_Q, above_Q]))

    def add(self, block: _Block) -> None:
        for dim, values_N in enumerate(block.values_DN):
            self._squares_D[dim] += (np.square(values_N - self._mean_D[dim]) * block.weight_N).sum()
            self._first.ordered[dim].count_lower(values_N, block.weight_N)

    def statistics(self) -> Statistics:
        first = self._first
        ends = [np.split(column.values().astype(np.float64), 2) for column in first.ordered]
        # Adding zero turns -0.0 into 0.0, so that equal statistics are written as equal bytes.
        quantile_DQ = np.array([interpolate(below_Q, above_Q, self._fraction_Q) + 0.0 for below_Q, above_Q in ends])
        return Statistics(
            mean=self._mean_D + 0.0,
            std=np.sqrt(self._squares_D / first.count),
            min=first.low_D + 0.0,
            max=first.high_D + 0.0,
            count=first.count,
            **dict(zip(QUANTILES, quantile_DQ.T, strict=True)),
        )
