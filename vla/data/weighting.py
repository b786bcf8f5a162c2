"""How often a step counts in the statistics: as whole numbers, so that quantiles stay those of a definite multiset."""

import math

import numpy as np
from jaxtyping import Int64

from vla.data.episodes import EpisodeTable

SHARE = 1000
"""Multiplicities of a mixture are rounded to this fraction of the smallest one."""


def chunk_counts(length: int, horizon: int) -> Int64[np.ndarray, "T"]:
    """How often each action of an episode stands in the chunks of `horizon` actions that begin at every step.

    A chunk that reaches past the end repeats the last action. An earlier step j stands in the min(j + 1, horizon)
    chunks that begin there or shortly before; the last one in sum over k < n of (horizon - k), with k the steps from a
    chunk's start to the last step and n = min(length, horizon).
    """
    counts_T = np.minimum(np.arange(1, length + 1), horizon)
    n = min(length, horizon)
    counts_T[-1:] = n * horizon - n * (n - 1) // 2
    return counts_T


def source_counts(table: EpisodeTable, weights: dict[str, float | None]) -> dict[str, int]:
    """How often a step of each source counts, so that the sources have the shares that their weights say.

    A source of N steps and weight w gets w / N in units of a thousandth of the smallest such ratio, rounded, and
    divided by what all have in common. Without weights every step counts once.
    """
    steps = np.bincount(table.source_E, weights=table.length_E, minlength=len(table.sources))
    ratios = [
        1.0 if (weight := weights[name]) is None else weight / count
        for name, count in zip(table.sources, steps.tolist(), strict=True)
    ]
    counts = [round(SHARE * ratio / min(ratios)) for ratio in ratios]
    common = math.gcd(*counts)
    return {name: count // common for name, count in zip(table.sources, counts, strict=True)}
