"""What a project needs of a dataset that lies elsewhere: its metadata, and the files of the selected episodes.

A format reads its metadata through a folder that gets every file when it is asked for. So nothing here knows a format,
and of a dataset of terabytes only the chosen episodes and views are looked at, or transferred.
"""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from tqdm import tqdm

from vla import registry
from vla.data.manifest import FileEntry, Manifest
from vla.data.selection import Selected, Selection, select
from vla.data.sources import SourceConfig
from vla.data.transfer import Tell
from vla.errors import DataError
from vla.folder import Folder, matching
from vla.formats import Dataset

WORKERS = 8
"""Files that are transferred at the same time."""
log = logging.getLogger(__name__)


class Origin(Protocol):
    """Where the files of a dataset come from. All errors are DataError or ConfigError."""

    folder: Folder
    """Where they are when they have been fetched; asking it for a file fetches it."""

    def present(self, names: Collection[str]) -> set[str]:
        """Those of the files that exist at the origin."""
        ...

    def fetch(self, names: Collection[str]) -> None:
        """Put files that exist at the origin into the folder; those that are there already cost nothing."""
        ...

    def entries(self, names: Collection[str]) -> list[FileEntry]:
        """What the manifest says about files that have been fetched."""
        ...


class FetchingFolder(Folder):
    """The folder `root`, into which `fetch` puts the files that it is asked for."""

    def __init__(self, root: Path, available: Collection[str], fetch: Callable[[Collection[str]], None]) -> None:
        super().__init__(root)
        self._available, self._fetch = available, fetch

    def path(self, relative: str | Path) -> Path:
        """The path of a file, which is there then."""
        self._get([Path(relative).as_posix()])
        return super().path(relative)

    def paths(self, names: Iterable[str]) -> list[Path]:
        """The paths of several files, which are fetched together."""
        names = list(names)
        self._get(names)
        return super().paths(names)

    def has(self, relative: str | Path) -> bool:
        """Whether the origin has such a file."""
        return Path(relative).as_posix() in self._available

    def names(self, below: str = "", suffix: str = "") -> list[str]:
        """The files that the origin has below a folder."""
        return matching(self._available, below, suffix)

    def _get(self, names: list[str]) -> None:
        self._fetch([name for name in names if name in self._available])


def point_to(origin: Origin, cfg: SourceConfig, *, name: str, source: Mapping[str, Any]) -> Manifest:
    """Fetch what the settings ask for and describe it; `source` says in the manifest where it comes from.

    Raises DataError when a needed file does not exist, unless `data.select.present` leaves out such episodes.
    """
    module = registry.find("formats", cfg.format)
    dataset: Dataset = module.open_dataset(origin.folder, cfg.columns, name=name)
    metadata = {path.as_posix() for path in dataset.metadata_files()}
    _check_complete(metadata, origin)
    selected, files = _select(origin, dataset, cfg.select)
    for reason, count in selected.left_out.items():
        log.info("%s: %d episodes left out: %s", name, count, reason)
    needed = sorted(metadata | files)
    origin.fetch(needed)
    return Manifest(
        format=cfg.format,
        source=dict(source),
        root=str(origin.folder.root.resolve()),
        files=tuple(origin.entries(needed)),
        left_out=dict(selected.left_out),
    )


def _select(origin: Origin, dataset: Dataset, cfg: Selection) -> tuple[Selected, set[str]]:
    """The episodes that take part, and their files, all of which exist."""
    where = str(origin.folder.root)
    # The first episodes of each instruction are to be counted among those that are there.
    candidates = select(cfg.model_copy(update={"per_instruction": None}) if cfg.present else cfg, dataset, where=where)
    files = _files(dataset, candidates.table)
    if not cfg.present:
        _check_complete(files, origin)
        return candidates, files
    selected = select(cfg, dataset, listed=origin.present(files), where=where)
    return selected, _files(dataset, selected.table)


def _files(dataset: Dataset, episodes: pa.Table) -> set[str]:
    ids = episodes["episode_id"].to_pylist()
    return {path.as_posix() for episode_id in ids for path in dataset.episode_files(episode_id)}


def _check_complete(files: Collection[str], origin: Origin) -> None:
    missing = sorted(set(files) - origin.present(files))
    if missing:
        raise DataError(
            f"{origin.folder.root}: expected {len(files)} files, found {len(missing)} of them missing: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}. "
            f"Complete the dataset, or set data.select.present: true to leave out episodes with missing files."
        )


def in_parallel(call: Callable[[str, Tell], object], names: Iterable[str], *, total: int | None) -> None:
    """Call `call(name, tell)` for every name in a few threads; it tells the bytes that are done, of `total` in all.

    The first error, or Ctrl-C, ends all: nothing new is begun, and what is under way stops when it tells something.
    """
    over = threading.Event()

    def tell(count: int) -> None:
        if over.is_set():
            raise CancelledError
        bar.update(count)

    with (
        tqdm(total=total, unit="B", unit_scale=True, desc="fetching", leave=False, disable=None) as bar,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        try:
            for done in as_completed([pool.submit(call, name, tell) for name in names]):
                done.result()
        finally:
            over.set()
            pool.shutdown(wait=False, cancel_futures=True)


def check_space(folder: Path, needed: int) -> None:
    """Raise DataError when so many bytes do not fit where `folder` is or will be."""
    place = next(above for above in (folder, *folder.parents) if above.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(
            f"{folder}: expected {needed:,} free bytes for what is still to be fetched, found {free:,}. Free some "
            f"space, or choose fewer episodes or views (data.select, data.columns.views)."
        )


def stat_files(root: Path, names: Collection[str]) -> dict[str, os.stat_result]:
    """Size and time of the files that exist; looked at by a few threads, since a network disk answers late."""
    ordered = sorted(names)
    parts = [ordered[first::WORKERS] for first in range(WORKERS)]
    with ThreadPoolExecutor(WORKERS) as pool:
        found = pool.map(lambda part: [(name, _stat(root / name)) for name in part], parts)
        return {name: status for part in found for name, status in part if status is not None}


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def described(root: Path, names: Collection[str], hashes: Mapping[str, str | None]) -> list[FileEntry]:
    """Manifest entries of files in place: by hash where it is known, else by size and time."""
    found = stat_files(root, names)
    return [
        FileEntry(name, status.st_size, None if hashes.get(name) else status.st_mtime_ns, hashes.get(name))
        for name, status in sorted(found.items())
    ]
