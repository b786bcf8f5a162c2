"""Statistics as LeRobot v3.0 stores them beside a dataset, per episode and overall; all of them exact.

Images are counted by value (256 bins per channel), which makes even their quantiles exact at no memory. LeRobot itself
samples frames and averages the quantiles of the episodes.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int64

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)

Stats = Mapping[str, np.ndarray]
"""Name -> [D] for a column, [3, 1, 1] for images in [0, 1], [1] for the count."""


def of_column(values: np.ndarray) -> Stats:
    """Statistics over the first axis of [T] or [T, D]."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([len(rows)], dtype=np.int64),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def of_images(counts: Int64[np.ndarray, "3 256"], num_images: int) -> Stats:
    """Statistics of 8-bit images, scaled to [0, 1], from how often each value occurs."""
    values = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = counts @ values / total
    variance = counts @ values**2 / total - mean**2
    present = counts > 0
    stats = {
        "min": values[present.argmax(axis=1)],
        "max": values[255 - present[:, ::-1].argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(variance, 0.0)),
        **{name: _quantile_of_counts(counts, q) / 255 for name, q in QUANTILES.items()},
    }
    shaped = {name: value.reshape(3, 1, 1) for name, value in stats.items()}
    return {**shaped, "count": np.array([num_images], dtype=np.int64)}


def _quantile_of_counts(counts: Int64[np.ndarray, "3 256"], q: float) -> Float64[np.ndarray, "3"]:
    """numpy's `linear` quantile of the values that the counts stand for."""
    up_to = counts.cumsum(axis=1)
    found = []
    for channel in up_to:
        rank = q * (channel[-1] - 1)
        low, high = np.searchsorted(channel, [np.floor(rank), np.ceil(rank)], side="right")
        found.append(low + (high - low) * (rank - np.floor(rank)))
    return np.array(found, dtype=np.float64)
