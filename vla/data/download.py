"""Stage download: get the demonstrations, generated in simulation or read in place from a folder.

The dataset folder holds the data files, or only a manifest that points to them: a dataset that lies somewhere already
is never copied.
"""

from pathlib import Path
from typing import Literal

from vla import artifacts, config, registry, workspace
from vla.columns import Vector
from vla.data.manifest import Manifest
from vla.data.selection import select
from vla.data.sources import DataConfig
from vla.errors import ConfigError, DataError
from vla.folder import Folder
from vla.sim.demonstrations import DemonstrationsConfig, generate
from vla.sim.write import describe_features, write_dataset

SIM_FORMAT = "lerobot_v30"


class LocalConfig(config.Config):
    """Section `download.local`."""

    path: Path
    """Folder of the dataset: absolute, or relative to the project."""


class DownloadConfig(config.Config):
    """Section `download`: the kind of source and the settings of each kind."""

    source: Literal["sim", "local"]
    sim: DemonstrationsConfig | None = None
    local: LocalConfig | None = None


class Config(config.Config):
    """What the stage reads."""

    data: DataConfig
    seed: int
    download: DownloadConfig


def run(cfg: Config, *, dataset: Path) -> None:
    """Write the folder `dataset` with its manifest."""
    if cfg.download.source == "sim":
        simulate(cfg, dataset)
    else:
        point_to(cfg, dataset)


def simulate(cfg: Config, dataset: Path) -> None:
    """Generate demonstrations into the folder `dataset`."""
    settings = cfg.download.sim
    if settings is None:
        raise ConfigError("download.sim: expected settings for source 'sim', found none. Add the section.")
    _check_columns(cfg, set(describe_features(settings)))
    with artifacts.new_directory(dataset) as partial:
        write_dataset(partial, generate(settings, seed=cfg.seed), settings)
        files = [path for path in partial.rglob("*") if path.is_file()]
        source = {"kind": "sim", "seed": cfg.seed, **settings.plain()}
        Manifest.describe(files, root=partial, format_name=SIM_FORMAT, source=source, in_place=False).write(partial)


def point_to(cfg: Config, dataset: Path) -> None:
    """Describe an existing dataset; the folder `dataset` gets its manifest alone."""
    settings = cfg.download.local
    if settings is None:
        raise ConfigError("download.local: expected {path: FOLDER} for source 'local', found none. Add the section.")
    root = workspace.main_checkout() / settings.path
    if not root.is_dir():
        raise DataError(f"download.local.path: expected a dataset folder, found none at {root}. Correct the path.")
    module = registry.find("formats", cfg.data.format)
    opened = module.open_dataset(Folder(root), cfg.data.columns, name=cfg.data.name)
    chosen = select(cfg.data.select, opened, listed=None, where=str(root)).table["episode_id"].to_pylist()
    needed = {path for episode_id in chosen for path in opened.episode_files(episode_id)}
    files = [root / path for path in [*opened.metadata_files(), *needed]]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise DataError(
            f"{root}: expected {len(files)} files, {len(missing)} are missing, the first is {missing[0]}. "
            f"Complete the dataset."
        )
    source = {"kind": "local", "path": str(settings.path)}
    with artifacts.new_directory(dataset) as partial:
        Manifest.describe(files, root=root, format_name=cfg.data.format, source=source, in_place=True).write(partial)


def _check_columns(cfg: Config, written: set[str]) -> None:
    """Refuse, before minutes of simulation, what the written dataset could not be read as."""
    if cfg.data.format != SIM_FORMAT:
        raise ConfigError(
            f"data.format: expected {SIM_FORMAT!r}, which source 'sim' writes, found {cfg.data.format!r}. Set it."
        )
    columns = cfg.data.columns
    vectors = {
        key: Vector.parse(spec).columns for key, spec in (("state", columns.state), ("actions", columns.actions))
    }
    named = [(key, column) for key, names in vectors.items() for column in names]
    for key, column in [*named, *columns.views.items()]:
        if column not in written:
            raise ConfigError(
                f"data.columns: expected for {key!r} one of {', '.join(sorted(written))}, found {column!r}."
                f"{registry.did_you_mean(column, sorted(written))}"
            )
