"""Stage norm_stats: exact statistics of state and actions over every step of the train split.

Two scans over the numeric columns, no image decoded: the first takes count, sum, extremes and the upper digits of
the quantiles, the second the squares about the mean and the lower digits. Memory grows with the number of dimensions;
`norm_stats.memory_bytes` only decides whether the columns are read once and kept, or read twice.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from vla import config
from vla.data.episodes import EpisodeTable
from vla.data.manifest import Manifest
from vla.data.quantiles import OrderStatistics, interpolate, ranks_around
from vla.data.sources import DataConfig, open_dataset
from vla.errors import DataError
from vla.formats import Recordings
from vla.normalization import NormStats, Statistics
from vla.terms import Steps

QUANTILES = {"q01": 0.01, "q50": 0.5, "q99": 0.99}
Blocks = Callable[[], Iterable[Float32[np.ndarray, "N D"]]]


class NormStatsConfig(config.Config):
    """Section `norm_stats`."""

    memory_bytes: Annotated[int, Field(ge=0)]
    """Numeric columns up to this size are kept between the two scans; the numbers do not depend on it."""


class Config(config.Config):
    """Parameters of the stage."""

    data: DataConfig
    norm_stats: NormStatsConfig


def run(cfg: Config, *, dataset: Path, episodes: Path, norm_stats: Path) -> None:
    """Write the statistics of the train split of `episodes` and what they were computed from."""
    data = open_dataset(cfg.data, dataset)
    table = EpisodeTable.read(episodes, "train")
    state, actions = measure_episodes(data, table, memory_bytes=cfg.norm_stats.memory_bytes)
    provenance: dict[str, str | int] = {
        "data_name": cfg.data.name,
        "dataset_digest": Manifest.read(dataset).digest,
        "episodes_digest": table.digest,
        "episodes": len(table),
        "steps": state.count,
    }
    NormStats(state, actions, provenance).write(norm_stats)


def measure_episodes(data: Recordings, table: EpisodeTable, *, memory_bytes: int) -> tuple[Statistics, Statistics]:
    """Statistics of state and of actions over all steps of the table's episodes, each step counted once."""
    state_dim, action_dim = data.schema.state_dim, data.schema.action_dim

    def scan() -> Iterator[Float32[np.ndarray, "T D"]]:
        for episode_id in table.episode_id_E.tolist():
            yield _columns(data, episode_id)

    fits = int(table.length_E.sum()) * (state_dim + action_dim) * 4 <= memory_bytes
    kept = list(scan()) if fits else None
    both = measure(scan if kept is None else lambda: kept, dims=state_dim + action_dim)
    return _dimensions(both, slice(state_dim)), _dimensions(both, slice(state_dim, None))


def measure(blocks: Blocks, *, dims: int) -> Statistics:
    """Statistics of each dimension over the rows of all blocks; `blocks` is called twice and gives equal rows."""
    ordered = OrderStatistics(dims)
    count, total = 0, np.zeros(dims)
    low, high = np.full(dims, np.inf), np.full(dims, -np.inf)
    for block_ND in blocks():
        count += len(block_ND)
        total += block_ND.sum(axis=0, dtype=np.float64)
        low, high = (
            np.minimum(low, block_ND.min(axis=0, initial=np.inf)),
            np.maximum(high, block_ND.max(axis=0, initial=-np.inf)),
        )
        ordered.count_upper(block_ND)
    if not count:
        raise DataError("norm_stats: expected at least one step in the train split, found none.")
    mean = total / count

    below_Q, above_Q, fraction_Q = ranks_around(np.array(list(QUANTILES.values())), count)
    ordered.choose(np.concatenate([below_Q, above_Q]))
    squares = np.zeros(dims)
    for block_ND in blocks():
        squares += np.square(block_ND - mean).sum(axis=0)
        ordered.count_lower(block_ND)
    # Adding zero turns -0.0 into 0.0, so that equal statistics are written as equal bytes.
    below_QD, above_QD = np.split(ordered.values().astype(np.float64) + 0.0, 2)
    quantiles = dict(zip(QUANTILES, interpolate(below_QD, above_QD, fraction_Q), strict=True))
    return Statistics(mean=mean, std=np.sqrt(squares / count), min=low + 0.0, max=high + 0.0, count=count, **quantiles)


def _columns(data: Recordings, episode_id: int) -> Float32[np.ndarray, "T D"]:
    """State and actions of an episode side by side; raises DataError where one is NaN or infinite."""
    steps: Steps = data.steps(episode_id)
    columns_TD = np.concatenate([steps.state_TS, steps.actions_TA], axis=1)
    wrong_TD = ~np.isfinite(columns_TD)
    if wrong_TD.any():
        step, dimension = np.argwhere(wrong_TD)[0].tolist()
        names = [*(f"state {name}" for name in data.schema.state_names)]
        names += [f"action {name}" for name in data.schema.action_names]
        raise DataError(
            f"episode {episode_id}, step {step}: expected a finite number for {names[dimension]}, found "
            f"{columns_TD[step, dimension]}. Set validate.on_bad_episode to quarantine, or repair the data."
        )
    return columns_TD


def _dimensions(stats: Statistics, part: slice) -> Statistics:
    """The statistics of some of the dimensions."""
    arrays = {name: getattr(stats, name)[part] for name in ("mean", "std", "min", "max", *QUANTILES)}
    return Statistics(**arrays, count=stats.count)
