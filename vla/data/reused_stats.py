"""Statistics of another project in place of the computed ones, as for fine-tuning its policy (`norm_stats.reuse`)."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field

from vla import artifacts, assets
from vla.assets import AssetSource
from vla.errors import DataError
from vla.normalization import FILE_NAME, NormStats, Quantity

WHERE = "norm_stats.reuse"


class StatsSource(AssetSource):
    """A bundle, a folder of a `norm_stats.json` or such a file; or a repository that has some below `assets/`."""

    asset: Annotated[str, Field(pattern=r"^[\w-][\w.-]*(/[\w-][\w.-]*)*$")] | None = None
    """Which one, where there are several: the path below `assets/`, such as `trossen`."""


def from_path(value: Any) -> Any:
    """The plain values of a source; a path may stand alone."""
    return {"source": str(value)} if isinstance(value, str | Path) else value


def taken_over(source: StatsSource, computed: NormStats) -> tuple[NormStats, dict[str, Any]]:
    """The statistics of `source` in place of the computed ones, and what they say about themselves.

    Padding beyond the dataset's dimensions is cut off. The actions as recorded are still this dataset's own.
    """
    file = stats_file(source)
    found = NormStats.read(file)
    for quantity in get_args(Quantity):
        expected, dims = computed.of(quantity).dims, found.of(quantity).dims
        if dims < expected:
            raise DataError(
                f"{file}: expected statistics of {expected} {quantity} dimensions ({WHERE}), found {dims}. "
                f"Map data.columns to what they are of, or set {WHERE} to null."
            )
    state, actions = found.state.first(computed.state.dims), found.actions.first(computed.actions.dims)
    keys = ("weighting", "delta_actions", "action_horizon")
    said = {key: found.provenance[key] for key in keys if key in found.provenance}
    given = {
        "path" if source.revision is None else "repository": source.source,
        "revision": source.revision,
        "asset": source.asset,
    }
    reused = {
        **{name: value for name, value in given.items() if value is not None},
        "digest": artifacts.digest_of_value([state.to_plain(), actions.to_plain()]),
        "sha256": artifacts.digest_of_file(file),
    }
    return replace(computed, state=state, actions=actions), {**said, "reused": reused}


def stats_file(source: StatsSource) -> Path:
    """The `norm_stats.json` of a source; raises DataError where there is none, or one of several is to be named."""
    if source.revision is None:
        return NormStats.locate(assets.local_path(source, where=WHERE), asset=source.asset)
    found = assets.find(source, [f"assets/{source.asset or '*'}/{FILE_NAME}"], where=WHERE)
    return NormStats.locate(found.root, asset=source.asset)
