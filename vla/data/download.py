"""Stage download: get the demonstrations, generated in simulation or from where they lie.

The folder `data/dataset` holds the data files, or only a manifest that points to them: a dataset that lies somewhere
already, or is fetched into a cache, is neither copied nor hashed. Further sources of a mixture lie in folders of their
own below it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from vla import artifacts, config
from vla.data import fetch_hub, fetch_local, fetch_url
from vla.data.fetch import Origin, point_to
from vla.data.fetch_sim import simulate
from vla.data.manifest import Manifest
from vla.data.remote import public
from vla.data.sources import DataConfig, SourceConfig, open_dataset, reading_code, source_folder
from vla.errors import ConfigError
from vla.paths import FileName
from vla.registry import did_you_mean
from vla.sim.demonstrations import DemonstrationsConfig

Settings = TypeVar("Settings")


class OriginConfig(config.Config):
    """Where one dataset comes from: the kind of source, and the settings of the kinds."""

    source: Literal["sim", "local", "hub", "url"]
    sim: DemonstrationsConfig | None = None
    local: fetch_local.LocalConfig | None = None
    hub: fetch_hub.HubConfig | None = None
    url: fetch_url.UrlConfig | None = None


class DownloadConfig(OriginConfig):
    """Section `download`."""

    mixture: Mapping[FileName, OriginConfig] = {}
    """Where the further datasets of `data.mixture` come from, by name."""


class Config(config.Config):
    """What the stage reads."""

    data: DataConfig
    seed: int
    download: DownloadConfig


@dataclass(frozen=True, slots=True)
class Wanted:
    """One dataset to get."""

    name: str
    data: SourceConfig
    download: OriginConfig
    section: str
    """Where its settings are below `data` and `download`: "" or ".mixture.NAME"."""


def run(cfg: Config, *, dataset: Path) -> None:
    """Write the folder `dataset` with its manifest."""
    wanted = _wanted(cfg)
    with artifacts.new_directory(dataset) as partial:
        main = _obtain(wanted[0], partial, seed=cfg.seed)
        mixture = {}
        for further in wanted[1:]:
            folder = source_folder(partial, cfg.data, further.name)
            folder.mkdir(parents=True)
            manifest = _obtain(further, folder, seed=cfg.seed)
            manifest = replace(manifest, code=reading_code(further.data.format))
            manifest.write(folder)
            mixture[further.name] = manifest.digest
        replace(main, mixture=mixture or None).write(partial)
        if mixture:
            open_dataset(cfg.data, partial)  # refuses what does not go together before anything is computed with it


def _wanted(cfg: Config) -> list[Wanted]:
    """The main dataset, and those of the mixture; both sections must name the same ones."""
    names, places = list(cfg.data.mixture), cfg.download.mixture
    for name in places:
        if name not in names:
            raise ConfigError(
                f"download.mixture: expected the datasets of data.mixture ({', '.join(names) or 'none'}), "
                f"found {name!r}.{did_you_mean(name, names)}"
            )
    for name in names:
        if name not in places:
            raise ConfigError(f"download.mixture.{name}: expected where data.mixture.{name} comes from. Add it.")
    further = [Wanted(name, cfg.data.mixture[name], places[name], f".mixture.{name}") for name in names]
    return [Wanted(cfg.data.name, cfg.data, cfg.download, ""), *further]


def _obtain(wanted: Wanted, folder: Path, *, seed: int) -> Manifest:
    """Get one dataset; what is generated is written into `folder`, all else stays where it is."""
    cfg, where = wanted.download, f"download{wanted.section}.{wanted.download.source}"
    if cfg.source == "sim":
        return simulate(_given(cfg.sim, where), wanted.data, folder, seed=seed, where=f"data{wanted.section}")
    origin, source = _origin(cfg, where)
    return point_to(origin, wanted.data, name=wanted.name, source={"kind": cfg.source, **source})


def _origin(cfg: OriginConfig, where: str) -> tuple[Origin, dict[str, Any]]:
    """Where the files are, and how the manifest says it."""
    if cfg.source == "local":
        local = _given(cfg.local, where)
        return fetch_local.LocalOrigin.find(local, where=where), {"path": str(local.path)}
    if cfg.source == "hub":
        hub = _given(cfg.hub, where)
        return fetch_hub.HubOrigin(hub, where=where), hub.plain()
    url = _given(cfg.url, where)
    return fetch_url.origin(url, where=where), {**url.plain(), "url": public(url.url)}


def _given(settings: Settings | None, where: str) -> Settings:
    if settings is None:
        raise ConfigError(f"{where}: expected the settings of the chosen source, found none. Add the section.")
    return settings
