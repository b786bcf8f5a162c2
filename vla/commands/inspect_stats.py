"""`vla inspect stats BUNDLE DATASET`: whether the norm stats of a policy fit a dataset.

BUNDLE is a bundle's folder, or a `norm_stats.json` (or a folder that holds one) of this or another project, which is
then taken by the settings in `params.yaml`. DATASET is what the download stage left; its columns are those that
`params.yaml` says. The train split is measured where its episode table lies beside the dataset, else every episode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from vla import artifacts
from vla.config import Config
from vla.data.episodes import FOREVER, EpisodeTable
from vla.data.norm_stats import Counted, Counting, PolicyHorizon
from vla.data.sources import DataConfig, Sources, open_dataset
from vla.data.stats_fit import LARGEST, LIMIT, OUTSIDE, WIDE, DimensionFit, compare, share_outside
from vla.models.bundle import CONFIG, BundleConfig
from vla.normalization import NormStats, Quantity, make_normalize
from vla.transforms import TransformsConfig

MEMORY_BYTES = 1_000_000_000
"""Numeric columns up to this size are read once."""
ADVICE = {
    "outside": f"more than {OUTSIDE:.0%} of the values, or one by {LARGEST:g} times, are beyond what was learned; "
    "find out where they come from, or fine-tune with statistics of these data",
    "wide": f"the data spread over less than {WIDE:.0%} of the learned range: the policy may not resolve them",
    "constant": "the policy takes the dimension for a constant, so it neither sees nor moves it",
    "missing": "the statistics lack the dimension: they are of another robot or another feature map",
    "absent": "the data lack the dimension, which the policy saw moving: they are of another robot or feature map",
}


class Settings(Config):
    """The sections that say which columns of the dataset are what, and how a bare file of statistics is used."""

    data: DataConfig
    policy: PolicyHorizon
    transforms: TransformsConfig


@dataclass(frozen=True, slots=True)
class Learned:
    """Statistics and the settings that they are used with."""

    stats: NormStats
    transforms: TransformsConfig
    horizon: int
    names: Mapping[Quantity, Sequence[str]]
    """Names of the dimensions, empty where nobody says."""
    use: str
    """Where the settings are from."""

    @classmethod
    def read(cls, path: Path, settings: Settings) -> "Learned":
        """Raises DataError when there are no statistics at `path`."""
        if (path / CONFIG).is_file():
            config = BundleConfig.parse(artifacts.read_json(path / CONFIG, made_by="dvc repro train"), where=str(path))
            stats = NormStats.find(path)
            horizon = PolicyHorizon.parse(config.policy, where=f"{path / CONFIG}: policy").action_horizon
            names: dict[Quantity, Sequence[str]] = {"state": config.state_names, "actions": config.action_names}
            return cls(stats, config.transforms, horizon, names, f"a bundle trained on {config.data_name}")
        stats = NormStats.find(path)
        said = {"delta_actions": settings.transforms.plain()["delta_actions"], **settings.policy.plain()}
        # What a file says about itself goes before params.yaml.
        said |= {key: stats.provenance[key] for key in said if key in stats.provenance}
        transforms = TransformsConfig.parse(
            {**settings.transforms.plain(), "delta_actions": said["delta_actions"]}, where=str(path)
        )
        names = {"state": stats.provenance.get("state_names", ()), "actions": stats.provenance.get("action_names", ())}
        return cls(stats, transforms, int(said["action_horizon"]), names, "with the settings of params.yaml")


def run(bundle: Path, dataset: Path) -> str:
    """The verdict, then a table of the dimensions."""
    settings = Settings.load()
    learned = Learned.read(bundle, settings)
    data = open_dataset(settings.data, dataset)
    table, which = _episodes(data, dataset.parent / "episodes.parquet")
    counting = Counting(
        dict.fromkeys(table.sources, 1),
        learned.horizon,
        chunks=learned.stats.provenance.get("weighting") == "chunks",
        delta=learned.transforms.delta_actions,
    )
    counted = Counted(data, table, counting, memory_bytes=MEMORY_BYTES)
    names: dict[Quantity, Sequence[str]] = {"state": data.schema.state_names, "actions": data.schema.action_names}
    fits = _compare(learned, counted, names)
    lines = [
        f"norm stats  {bundle}, {learned.use}",
        f"data        {dataset}, {which}",
        *(f"verdict     {line}" for line in _verdict(fits)),
    ]
    for quantity, rows in fits.items():
        lines += ["", *_table(quantity, learned, rows), *_beside(quantity, learned, names[quantity])]
    return "\n".join(lines)


Fit = DimensionFit | Literal["missing", "absent"]
"""Of a dimension that the statistics and the data have, or of one that the statistics or the data lack."""
Fits = Mapping[Quantity, Mapping[str, Fit]]
"""By the names of the dimensions."""


def _compare(learned: Learned, counted: Counted, names: Mapping[Quantity, Sequence[str]]) -> Fits:
    found, settings = counted.statistics(), learned.transforms.normalization
    # A policy on still dimensions has no say here: they are what is reported.
    settings = settings.model_copy(update={"degenerate": "constant"})
    stats = NormStats(
        learned.stats.state.first(len(names["state"])), learned.stats.actions.first(len(names["actions"]))
    )
    normalize = {quantity: make_normalize(settings, stats, quantity) for quantity in get_args(Quantity)}
    outside = share_outside(counted, state=normalize["state"], actions=normalize["actions"])
    fits = {}
    for quantity, own in normalize.items():
        known = compare(
            names[quantity][: own.dims],
            learned=stats.of(quantity),
            normalize=own,
            found=found.of(quantity).first(own.dims),
            outside_D=outside[quantity],
        )
        rows: dict[str, Fit] = {fit.name: fit for fit in known}
        rows |= dict.fromkeys(names[quantity][own.dims :], "missing")
        fits[quantity] = rows | dict.fromkeys(_absent(quantity, learned, found.of(quantity).dims), "absent")
    return fits


def _absent(quantity: Quantity, learned: Learned, dims: int) -> list[str]:
    """Names of the moving dimensions that the statistics have beyond those of the data."""
    std, names = learned.stats.of(quantity).std, learned.names[quantity]
    return [names[dim] if names else f"dimension {dim}" for dim in range(dims, len(std)) if std[dim]]


def _episodes(data: Sources, path: Path) -> tuple[EpisodeTable, str]:
    """The train split of the file at `path` where it is of this dataset, else all episodes; and which in words."""
    rows = data.episodes()
    if path.is_file():
        table = EpisodeTable.read(path, "train")
        lengths = dict(zip(rows["episode_id"].to_pylist(), rows["length"].to_pylist(), strict=True))
        split = zip(table.episode_id_E.tolist(), table.length_E.tolist(), strict=True)
        if all(lengths.get(episode) == length for episode, length in split):
            return table, f"{len(table)} episodes of the train split in {path}"
    names = rows["source"].to_pylist()
    sources = tuple(sorted(set(names)))
    nothing_E = np.zeros(len(rows), dtype=np.int64)
    table = EpisodeTable(
        episode_id_E=rows["episode_id"].to_numpy(),
        uid_E=nothing_E,
        length_E=rows["length"].to_numpy(),
        supervised_E=rows["supervised"].fill_null(FOREVER).to_numpy(),
        sources=sources,
        source_E=np.array([sources.index(name) for name in names]),
        blocks=None,
        instructions=("",),
        instruction_E=nothing_E,
        digest="",
    )
    return table, f"all {len(table)} episodes"


def _verdict(fits: Fits) -> list[str]:
    """One line that says it, and one for every way of not fitting."""
    found: dict[str, list[str]] = {}
    for quantity, rows in fits.items():
        for name, fit in rows.items():
            found.setdefault(_word(fit), []).append(f"{quantity} {name}")
    wrong = {word: names for word, names in found.items() if word != "fits"}
    if not wrong:
        return ["fits in every dimension"]
    count, total = (sum(len(names) for names in group.values()) for group in (wrong, found))
    return [
        f"does not fit in {count} of {total} dimensions",
        *(f"{word}: {', '.join(names)} ({ADVICE[word]})" for word, names in wrong.items()),
    ]


def _table(quantity: Quantity, learned: Learned, rows: Mapping[str, Fit]) -> list[str]:
    method = getattr(learned.transforms.normalization, quantity)
    limit = f"{LIMIT[method]:g}"
    header = (quantity, "minimum", "1 %", "99 %", "maximum", f"learned -{limit}", limit, "beyond", "largest", "shift")
    lines = [f"{_cells(header)}  by {method}"]
    for name, fit in rows.items():
        if isinstance(fit, str):
            lines.append(f"{_cells([name, *[''] * 9])}  {fit}")
        else:
            shift = "" if fit.shift is None else f"{fit.shift:+.2f}"
            numbers = [f"{value:.4g}" for value in (*fit.data, *fit.learned)]
            lines.append(
                f"{_cells([name, *numbers, f'{fit.outside:.1%}', f'{fit.largest:.3g}', shift])}  {fit.verdict}"
            )
    return lines


def _cells(words: Sequence[str]) -> str:
    """A name, cut to its column, and numbers."""
    return f"{words[0][:24]:<24}" + "".join(f"{word:>11}" for word in words[1:])


def _beside(quantity: Quantity, learned: Learned, names: Sequence[str]) -> list[str]:
    """What else to know about the dimensions: which are padding, and which are called differently."""
    stats, known, lines = learned.stats.of(quantity), learned.names[quantity], []
    if padding := int((stats.std[len(names) :] == 0).sum()):
        lines.append(f"the statistics have {padding} further dimensions that never move, as padding does")
    other = [f"{old} is {new}" for old, new in zip(known, names, strict=False) if old != new]
    if other:
        lines.append(f"names differ, the statistics' first: {', '.join(other)}")
    return lines


def _word(fit: Fit) -> str:
    return fit if isinstance(fit, str) else fit.verdict
