"""Checks of a dataset as a whole, before any episode is read: its schema, its lists, its files."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from vla import artifacts
from vla.data.checks import Check, check, some
from vla.data.sources import Source
from vla.formats import Dataset
from vla.terms import DatasetSchema


@dataclass(frozen=True)
class Listing:
    """One dataset by its metadata and its list of files, and what it should be like."""

    source: Source
    root: Path
    """Folder of the files."""
    main: DatasetSchema
    """Schema of the main dataset of the mixture, or the dataset's own."""
    state_dim: int | None = None
    action_dim: int | None = None
    """What the policy expects, None where that is not said."""

    @property
    def schema(self) -> DatasetSchema:
        return self.source.dataset.schema

    @property
    def episodes(self) -> pa.Table:
        """The episodes that take part."""
        return self.source.selected.table

    @cached_property
    def all_episodes(self) -> pa.Table:
        """All that the dataset has."""
        return self.source.dataset.episodes()

    @cached_property
    def files(self) -> set[str]:
        """The files that the episodes lie in, relative to the root."""
        return _files_of(self.source.dataset, self.episodes)

    @cached_property
    def all_files(self) -> set[str]:
        """The same of all episodes that the dataset has."""
        if len(self.episodes) == len(self.all_episodes):
            return self.files
        return _files_of(self.source.dataset, self.all_episodes)


HASHING = 4
"""Files that are hashed at the same time."""
CHECKS: list[Check[Listing]] = []


@check(CHECKS, "every dimension and view has a name of its own, and rates and sizes are positive", is_essential=True)
def schema(listing: Listing) -> Iterator[str]:
    described = listing.schema
    if not described.fps > 0:
        yield f"expected a positive fps, found {described.fps:g}"
    for what, names in (("state", described.state_names), ("action", described.action_names)):
        if not names:
            yield f"expected at least one {what} dimension, found none"
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            yield f"expected distinct {what} names, found {some(repeated)} more than once"
    if not described.views:
        yield "expected at least one view, found none"
    for view, size in described.views.items():
        if min(size) < 1:
            yield f"view {view}: expected a positive image size, found {size[0]}x{size[1]}"


@check(CHECKS, "episode ids are distinct and every episode has steps", is_essential=True)
def episode_list(listing: Listing) -> Iterator[str]:
    ids = listing.episodes["episode_id"].to_numpy()
    lengths = listing.episodes["length"].to_numpy()
    if not len(ids):
        yield "expected at least one episode, found none"
    distinct, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        yield f"expected distinct episode ids, found {some(distinct[counts > 1])} more than once"
    if (lengths < 1).any():
        yield f"expected at least one step per episode, found none in {some(ids[lengths < 1])}"


@check(CHECKS, "state and actions have the dimensions that the policy expects")
def dimensions(listing: Listing) -> Iterator[str]:
    for what, expected, found in (
        ("state", listing.state_dim, listing.schema.state_dim),
        ("action", listing.action_dim, listing.schema.action_dim),
    ):
        if expected not in (None, found):
            yield f"expected {expected} {what} dimensions (validate.{what}_dim), found {found}: correct data.columns"


@check(CHECKS, "the datasets of a mixture give the same names to the same dimensions", level="warning")
def dimension_names(listing: Listing) -> Iterator[str]:
    for what, expected, found in (
        ("state", listing.main.state_names, listing.schema.state_names),
        ("action", listing.main.action_names, listing.schema.action_names),
    ):
        other = [f"{b} for {a}" for a, b in zip(expected, found, strict=True) if a != b]
        if other:
            yield f"expected the {what} names of {listing.main.name}, found {some(other)}"


@check(CHECKS, "the metadata count as many episodes and steps as they list")
def totals(listing: Listing) -> Iterator[str]:
    claims, table = listing.source.dataset.claims(), listing.all_episodes
    steps = pc.sum(table["length"], min_count=0).as_py()
    for what, claimed, listed in (("episodes", claims.episodes, len(table)), ("steps", claims.steps, steps)):
        if claimed not in (None, listed):
            yield f"expected {claimed} {what} by the metadata's own total, found {listed} in the list of episodes"


@check(CHECKS, "every file that holds episodes is listed in the manifest")
def files(listing: Listing) -> Iterator[str]:
    if unlisted := sorted(listing.files - listing.source.manifest.listed.keys()):
        yield f"expected the manifest to list every data file, missing {some(unlisted)}: run 'dvc repro -f -s download'"


@check(CHECKS, "every file of the kinds that hold episodes belongs to one", level="warning")
def surplus_files(listing: Listing) -> Iterator[str]:
    patterns = listing.source.dataset.data_folders()
    there = {name for pattern in patterns for name in _files_below(listing.root, pattern)}
    # The manifest lists no file of an episode that is left out: where such files are may be known by name alone.
    names = {Path(name).name for name in listing.all_files - listing.files}
    kinds = {Path(name).suffix for name in listing.all_files}
    unknown = [Path(name) for name in sorted(there - listing.all_files)]
    if surplus := [path.as_posix() for path in unknown if path.suffix in kinds and path.name not in names]:
        yield f"expected files of its {len(listing.all_episodes)} episodes only, found {some(surplus)} of none"


@check(CHECKS, "files that were hashed at download still hold the same bytes")
def contents(listing: Listing) -> Iterator[str]:
    hashed = [entry for entry in listing.source.manifest.files if entry.sha256 is not None]
    with ThreadPoolExecutor(HASHING) as pool:
        digests = pool.map(_digest, [listing.root / entry.path for entry in hashed])
        bar = tqdm(zip(hashed, digests, strict=True), "hashing", len(hashed), unit="file", leave=False, disable=None)
        for entry, found in bar:
            if found != entry.sha256:
                yield (
                    f"{entry.path}: expected the bytes of the download (sha256 {entry.sha256[:12]}), "
                    f"found {found[:12]}: run 'dvc repro -f -s download'"
                )


@check(CHECKS, "every episode of the dataset takes part", level="warning")
def selection(listing: Listing) -> Iterator[str]:
    left_out = listing.source.selected.left_out
    if left_out:
        count = sum(left_out.values())
        reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
        yield f"{count} of {count + len(listing.episodes)} episodes are left out: {reasons}"


def _digest(path: Path) -> str:
    return artifacts.digest_of_file(path) if path.is_file() else "no file"


def _files_of(dataset: Dataset, episodes: pa.Table) -> set[str]:
    """The files that the episodes lie in, relative to the root."""
    ids: Iterable[int] = episodes["episode_id"].to_pylist()
    return {file.as_posix() for episode_id in ids for file in dataset.episode_files(episode_id)}


def _files_below(root: Path, pattern: str) -> Iterator[str]:
    """Files in the folders of a pattern, relative to the root, without hidden ones; none is asked for its status."""
    for folder in root.glob(pattern) if pattern else [root]:
        for place, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            relative = Path(place).relative_to(root)
            yield from ((relative / name).as_posix() for name in names if not name.startswith("."))
