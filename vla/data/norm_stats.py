"""Stage norm_stats: exact statistics of state and actions over the steps of the train split, no image decoded.

What is counted is what training normalises: steps of a mixture in the shares that its sources are drawn in, and the
differences of delta actions over all steps of all chunks. An episode ends with its terminal step, after which nothing
is supervised, so a recorder that runs on does not change the statistics. With `weighting: chunks` an action counts as
often as it stands in a chunk, the repeated last one of an episode included, which is how openpi counts. The actions as
recorded are measured besides, every step once: the scale by which policies are compared, whatever their normalisation.

Columns that fit `norm_stats.memory_bytes` are read once and kept, larger ones are read twice; the numbers are equal.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from jaxtyping import Float32, Int64
from pydantic import BeforeValidator, ConfigDict, Field

from vla import config
from vla.data.episodes import EpisodeTable
from vla.data.manifest import Manifest
from vla.data.moments import QUANTILES, WeightedRows, measure
from vla.data.reused_stats import StatsSource, from_path, taken_over
from vla.data.sources import DataConfig, open_dataset
from vla.data.weighting import chunk_counts, source_counts
from vla.delta import Delta, DeltaRanges
from vla.errors import DataError
from vla.formats import Recordings
from vla.normalization import NEEDED, Method, Normalize, NormStats, Quantity, Statistics

logger = logging.getLogger(__name__)

RECORDED, ACTIONS, DELTA = "recorded actions", "actions", "delta actions"


class NormStatsConfig(config.Config):
    """Section `norm_stats`."""

    weighting: Literal["steps", "chunks"]
    """How often an action counts: once, or once for every chunk that it stands in."""
    reuse: Annotated[StatsSource, BeforeValidator(from_path)] | None = None
    """A bundle or a `norm_stats.json`, as for fine-tuning, whose statistics are taken over; null to compute them.
    DVC does not watch a path: when it changes, run `dvc repro -f -s norm_stats`."""
    memory_bytes: Annotated[int, Field(ge=0)]
    """Numeric columns up to this size are kept between the two scans; the numbers do not depend on it."""


class PolicyHorizon(config.Config):
    """The one key of section `policy` that this stage reads: another key may change without running it again."""

    model_config = ConfigDict(extra="ignore")

    action_horizon: Annotated[int, Field(gt=0)]


class DeltaActions(config.Config):
    """The one key of section `transforms` that this stage reads."""

    model_config = ConfigDict(extra="ignore")

    delta_actions: DeltaRanges = ()


class Config(config.Config):
    """Parameters of the stage."""

    data: DataConfig
    norm_stats: NormStatsConfig
    policy: PolicyHorizon
    transforms: DeltaActions


@dataclass(frozen=True, slots=True)
class Counting:
    """What counts, and how often."""

    sources: dict[str, int]
    """Source -> as how many equal steps each of its steps counts."""
    horizon: int
    chunks: bool = False
    """Whether actions count once for every chunk that they stand in."""
    delta: DeltaRanges = ()

    @property
    def plain(self) -> bool:
        """Whether every action counts once."""
        return not self.chunks and set(self.sources.values()) == {1}

    def described(self) -> dict[str, Any]:
        """For the provenance."""
        described = {
            "weighting": "chunks" if self.chunks else "steps",
            "delta_actions": [item.plain() for item in self.delta],
        }
        # A horizon that enters no number would make equal statistics look different.
        return {**described, "action_horizon": self.horizon} if self.chunks or self.delta else described


def run(cfg: Config, *, dataset: Path, episodes: Path, norm_stats: Path) -> None:
    """Write the statistics of the train split of `episodes` and what they were computed from."""
    data = open_dataset(cfg.data, dataset)
    table = EpisodeTable.read(episodes, "train")
    counting = Counting(
        source_counts(table, {name: source.weight for name, source in cfg.data.sources.items()}),
        cfg.policy.action_horizon,
        chunks=cfg.norm_stats.weighting == "chunks",
        delta=cfg.transforms.delta_actions,
    )
    stats = Counted(data, table, counting, memory_bytes=cfg.norm_stats.memory_bytes).statistics()
    said = counting.described()
    if cfg.norm_stats.reuse is not None:
        stats, said = taken_over(cfg.norm_stats.reuse, stats)
    provenance = {
        "data_name": cfg.data.name,
        "dataset_digest": Manifest.read(dataset).digest,
        "episodes_digest": table.digest,
        "episodes": len(table),
        "steps": int(np.minimum(table.length_E, table.supervised_E).sum()),
        "state_names": list(data.schema.state_names),
        "action_names": list(data.schema.action_names),
        **said,
        **({"sources": counting.sources} if len(counting.sources) > 1 else {}),
    }
    stats = replace(stats, provenance=provenance)
    _report_degenerate(stats)
    stats.write(norm_stats)


@dataclass(frozen=True, slots=True)
class _Episode:
    source: str
    state_TS: Float32[np.ndarray, "T S"]
    actions_TA: Float32[np.ndarray, "T A"]


class Counted:
    """The rows of some episodes with as often as they count; read again by every scan unless they could be kept."""

    def __init__(self, data: Recordings, table: EpisodeTable, counting: Counting, *, memory_bytes: int) -> None:
        schema = data.schema
        self._counting = counting
        self.delta = Delta.make(counting.delta, state_dim=schema.state_dim, action_dim=schema.action_dim)
        self.dims = {"state": schema.state_dim, RECORDED: schema.action_dim}
        """Quantity -> number of dimensions; `ACTIONS` and `DELTA` only where they are counted apart."""
        if not counting.plain:
            self.dims[ACTIONS] = schema.action_dim
        if len(self.delta):
            self.dims[DELTA] = len(self.delta)
        fits = int(table.length_E.sum()) * (schema.state_dim + schema.action_dim) * 4 <= memory_bytes
        kept = list(_read(data, table)) if fits else None
        self._episodes = (lambda: _read(data, table)) if kept is None else (lambda: kept)

    def scan(self) -> Iterator[tuple[str, WeightedRows]]:
        """All rows, each with its quantity."""
        for episode in self._episodes():
            yield from _rows(episode, self._counting, self.delta)

    def statistics(self) -> NormStats:
        """Statistics of all rows, without provenance."""
        found = measure(self.scan, self.dims)
        actions = found.get(ACTIONS, found[RECORDED])
        if len(self.delta):
            actions = _replaced(actions, self.delta.actions_K, found[DELTA])
        return NormStats(found["state"], actions, {}, found[RECORDED])


def _read(data: Recordings, table: EpisodeTable) -> Iterator[_Episode]:
    """The numeric columns of all episodes up to a terminal step; raises DataError where a number is NaN or infinite."""
    rows = (table.episode_id_E.tolist(), table.source_E.tolist(), table.supervised_E.tolist())
    for episode_id, source, stop in zip(*rows, strict=True):
        steps = data.steps(episode_id)
        _check_finite(steps.state_TS, "state", data.schema.state_names, episode_id)
        _check_finite(steps.actions_TA, "action", data.schema.action_names, episode_id)
        yield _Episode(table.sources[source], steps.state_TS[:stop], steps.actions_TA[:stop])


def _check_finite(values_TD: Float32[np.ndarray, "T D"], what: str, names: Sequence[str], episode_id: int) -> None:
    finite_TD = np.isfinite(values_TD)
    if not finite_TD.all():
        step, dim = np.argwhere(~finite_TD)[0].tolist()
        raise DataError(
            f"episode {episode_id}, step {step}: expected a finite number for {what} {names[dim]}, found "
            f"{values_TD[step, dim]}. Set validate.on_bad_episode to quarantine, or repair the data."
        )


def _rows(episode: _Episode, counting: Counting, delta: Delta) -> Iterator[tuple[str, WeightedRows]]:
    """What an episode adds to each quantity."""
    state_TS, actions_TA, once = episode.state_TS, episode.actions_TA, counting.sources[episode.source]
    length, horizon = len(actions_TA), counting.horizon
    yield "state", WeightedRows.once(state_TS, once)
    yield RECORDED, WeightedRows.once(actions_TA)
    if not counting.plain:
        counts_T = chunk_counts(length, horizon) if counting.chunks else np.ones(length, dtype=np.int64)
        yield ACTIONS, WeightedRows(actions_TA, counts_T * once)
    for ahead in range(horizon if len(delta) else 0):
        # Chunks that reach past the end repeat the last action, or have no action there.
        starts = length if counting.chunks else max(length - ahead, 0)
        reached_N = np.minimum(np.arange(starts) + ahead, length - 1)
        yield DELTA, WeightedRows.once(delta.differences(actions_TA[reached_N], state_TS[:starts]), once)


def _replaced(stats: Statistics, dims: Int64[np.ndarray, "K"], by: Statistics) -> Statistics:
    """The statistics with some dimensions taken from others; the count stays."""
    arrays = {name: getattr(stats, name).copy() for name in ("mean", "std", "min", "max", *QUANTILES)}
    for name, array in arrays.items():
        array[dims] = getattr(by, name)
    return Statistics(**arrays, count=stats.count)


def _report_degenerate(stats: NormStats) -> None:
    """Name the dimensions that a method would map to a constant."""
    for quantity in get_args(Quantity):
        values, names = stats.of(quantity), np.array(stats.names(quantity))
        still: dict[tuple[str, ...], list[Method]] = {}
        for method, needed in NEEDED.items():
            if any(getattr(values, name) is None for name in needed):
                continue
            still.setdefault(tuple(names[Normalize(values, method).degenerate].tolist()), []).append(method)
        for found, methods in still.items():
            if found:
                logger.warning("%s: constant by %s: %s", quantity, ", ".join(methods), ", ".join(found))
