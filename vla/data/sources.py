"""The datasets that a project trains on: one, or a mixture, opened as one `Dataset` (section `data`).

The sources of a mixture keep their own formats and folders. Episode ids stay unique because the number of the source
is written above their own; the main source has number 0, so a single dataset keeps its ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64, UInt8
from pydantic import Field, model_validator

from vla import artifacts, registry
from vla.columns import Columns
from vla.config import Config
from vla.data.manifest import Manifest
from vla.data.selection import Selected, Selection, select
from vla.errors import DataError
from vla.folder import Folder
from vla.formats import Dataset
from vla.paths import FileName
from vla.terms import DatasetSchema, Range, Steps, Tasks
from vla.video_backend import VideoBackend

MIXTURE = "mixture"
"""Folder of the further sources within the dataset's folder."""
SHIFT = 40
"""Bits of an episode id below the number of its source."""


class SourceConfig(Config):
    """One dataset: its format, and which of its columns and episodes are used."""

    format: str
    """File name in vla/formats."""
    columns: Columns
    select: Selection = Selection()
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of the training samples, relative to the other sources' weights; null for in proportion to its steps."""


class DataConfig(SourceConfig):
    """Section `data`: the dataset, and further ones of a mixture."""

    name: FileName
    """Identity of the dataset in episode uids, bundles and tracking."""
    mixture: Mapping[FileName, SourceConfig] = {}
    """Further datasets of the same robot interface that are trained on together with this one, by name."""
    video_backend: VideoBackend = "pyav"
    """What decodes the colours of videos; here and not in `execution`, as it decides numbers."""

    @model_validator(mode="after")
    def _all_have_a_weight_or_none(self) -> "DataConfig":
        weights = [source.weight for source in self.sources.values()]
        if None in weights and any(weight is not None for weight in weights):
            raise ValueError("expected a weight for every dataset of the mixture, or for none")
        if self.name in self.mixture:
            raise ValueError(f"expected names of the mixture other than the dataset's own {self.name!r}")
        return self

    @property
    def sources(self) -> dict[str, SourceConfig]:
        """Name -> settings; the main dataset first."""
        return {self.name: self, **self.mixture}


@dataclass(frozen=True, slots=True)
class Source:
    """One opened dataset of the project."""

    name: str
    number: int
    dataset: Dataset
    manifest: Manifest
    selected: Selected
    weight: float | None


def source_folder(dataset: Path, cfg: DataConfig, name: str) -> Path:
    """Where the download stage puts a source."""
    return dataset if name == cfg.name else dataset / MIXTURE / name


def open_dataset(cfg: DataConfig, dataset: Path) -> "Sources":
    """Open what the download stage left in the folder `dataset`, without looking at the data files."""
    opened = [
        open_source(
            source, source_folder(dataset, cfg, name), name=name, number=number, video_backend=cfg.video_backend
        )
        for number, (name, source) in enumerate(cfg.sources.items())
    ]
    return Sources(opened)


def open_source(
    cfg: SourceConfig, folder: Path, *, name: str, number: int = 0, video_backend: VideoBackend = "pyav"
) -> Source:
    """Open one dataset by its manifest in `folder`."""
    manifest = Manifest.read(folder)
    if manifest.format != cfg.format:
        raise DataError(
            f"{folder}: expected format {cfg.format!r} (data.format), found {manifest.format!r}. "
            f"Set data.format to {manifest.format!r} or download another dataset."
        )
    if manifest.code not in (None, reading_code(cfg.format)):
        raise DataError(
            f"{folder}: expected the code of vla/formats/{cfg.format}.py as at download, found another. "
            f"Run 'dvc repro -f -s download' to read the dataset with the new code."
        )
    module = registry.find("formats", cfg.format)
    dataset: Dataset = module.open_dataset(
        Folder(manifest.folder(folder), manifest.listed), cfg.columns, name=name, video_backend=video_backend
    )
    selected = select(cfg.select, dataset, listed=manifest.listed, where=str(folder))
    if manifest.left_out is not None:
        # The manifest lists the selected files: by it alone, every other episode would count as one with missing files.
        selected = replace(selected, left_out=manifest.left_out)
    return Source(name, number, dataset, manifest, selected, cfg.weight)


def reading_code(format_name: str) -> str:
    """Digest of a format's file: DVC watches that of the main dataset; a further source's is kept in its manifest."""
    module = registry.find("formats", format_name)
    return artifacts.digest_of_file(Path(str(module.__file__)))


class Sources:
    """All sources as one; implements `vla.formats.Dataset` but for the files, which belong to the single sources."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self.schema = _common_schema(self.sources)

    def episodes(self) -> pa.Table:
        """The selected episodes of all sources, with a column `source` (its name) after those of EPISODES."""
        return pa.concat_tables([_with_source(source) for source in self.sources])

    def uid_parts(self, episode_id: int) -> tuple[str, int]:
        """Name of an episode's source and its number there: what its uid is made of, wherever it is mixed in."""
        source, own = self._find(episode_id)
        return source.name, own

    def steps(self, episode_id: int) -> Steps:
        source, own = self._find(episode_id)
        return source.dataset.steps(own)

    def images(
        self, episode_id: int, view: str, steps_N: Int64[np.ndarray, "N"] | None = None
    ) -> UInt8[np.ndarray, "N Y X 3"]:
        source, own = self._find(episode_id)
        return source.dataset.images(own, view, steps_N)

    def frame_count(self, episode_id: int, view: str) -> int | None:
        source, own = self._find(episode_id)
        return source.dataset.frame_count(own, view)

    def depth(
        self, episode_id: int, view: str, steps_N: Int64[np.ndarray, "N"] | None = None
    ) -> Float32[np.ndarray, "N Y X"]:
        source, own = self._find(episode_id)
        return source.dataset.depth(own, view, steps_N)

    def block_starts(self, episode_id: int) -> Int64[np.ndarray, "K"]:
        source, own = self._find(episode_id)
        return source.dataset.block_starts(own)

    def recorded_ranges(self, episode_id: int) -> Mapping[str, Range]:
        source, own = self._find(episode_id)
        return source.dataset.recorded_ranges(own)

    def tasks(self, episode_id: int) -> Tasks | None:
        source, own = self._find(episode_id)
        return source.dataset.tasks(own)

    def _find(self, episode_id: int) -> tuple[Source, int]:
        number, own = episode_id >> SHIFT, own_id(episode_id)
        if not 0 <= number < len(self.sources):
            raise DataError(f"expected an episode of {len(self.sources)} datasets, found {episode_id}. Validate again.")
        return self.sources[number], own


def own_id(episode_id: int) -> int:
    """What an episode is called in its own source."""
    return episode_id & ((1 << SHIFT) - 1)


def _with_source(source: Source) -> pa.Table:
    table, offset = source.selected.table, source.number << SHIFT
    ids = pa.array(table["episode_id"].to_numpy() + offset, pa.int64())
    table = table.set_column(0, "episode_id", ids)
    return table.append_column("source", pa.array([source.name] * len(table), pa.string()))


def _common_schema(sources: Sequence[Source]) -> DatasetSchema:
    """The main source's schema; raises DataError where another source offers something else."""
    schema = sources[0].dataset.schema
    for source in sources[1:]:
        other = source.dataset.schema
        for what, expected, found in (
            ("views", list(schema.views), list(other.views)),
            ("state dimensions", schema.state_dim, other.state_dim),
            ("action dimensions", schema.action_dim, other.action_dim),
            ("steps per second", schema.fps, other.fps),
            ("views with depth", sorted(schema.depth), sorted(other.depth)),
        ):
            if expected != found:
                raise DataError(
                    f"data.mixture.{source.name}: expected the {what} of {sources[0].name}, {expected}, found {found}. "
                    f"Map its columns in data.mixture.{source.name}.columns, or leave it out."
                )
    return replace(schema, name=sources[0].name)
