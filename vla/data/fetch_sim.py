"""Source `sim`: demonstrations generated in simulation, written into the dataset's folder (section `download.sim`)."""

from pathlib import Path

from vla import registry
from vla.columns import Vector
from vla.data.manifest import Manifest
from vla.data.sources import SourceConfig
from vla.errors import ConfigError
from vla.sim.demonstrations import DemonstrationsConfig, generate
from vla.sim.write import describe_features, write_dataset

FORMAT = "lerobot_v30"


def simulate(settings: DemonstrationsConfig, cfg: SourceConfig, folder: Path, *, seed: int, where: str) -> Manifest:
    """Generate demonstrations into the empty `folder`; `where` is the section of `cfg`, for messages."""
    _check_format(cfg, where)
    _check_columns(cfg, set(describe_features(settings)), where)
    write_dataset(folder, generate(settings, seed=seed), settings)
    files = [path for path in folder.rglob("*") if path.is_file()]
    source = {"kind": "sim", "seed": seed, **settings.plain()}
    return Manifest.describe(files, root=folder, format_name=FORMAT, source=source, in_place=False)


def _check_format(cfg: SourceConfig, where: str) -> None:
    if cfg.format != FORMAT:
        raise ConfigError(
            f"{where}.format: expected {FORMAT!r}, which source 'sim' writes, found {cfg.format!r}. Set it."
        )


def _check_columns(cfg: SourceConfig, written: set[str], where: str) -> None:
    """Refuse, before minutes of simulation, what the written dataset could not be read as."""
    columns = cfg.columns
    vectors = {
        key: Vector.parse(spec).columns for key, spec in (("state", columns.state), ("actions", columns.actions))
    }
    named = [(key, column) for key, names in vectors.items() for column in names]
    for key, column in [*named, *columns.views.items(), *columns.depth.items()]:
        if column not in written:
            raise ConfigError(
                f"{where}.columns: expected for {key!r} one of {', '.join(sorted(written))}, found {column!r}."
                f"{registry.did_you_mean(column, sorted(written))}"
            )
