"""Checkpoints that are complete, verified and bounded in number.

    <folder>/<step>/{model,optimizer,ema}.safetensors  metadata.json

A checkpoint is written to a temporary directory, synced and renamed, with a SHA-256 per file in its metadata. So a
kill at any byte leaves the earlier ones untouched, and a damaged file is found before anything is loaded. Older ones
are removed only after the new one is on the disk, so the folder needs room for one more than are kept.
"""

import errno
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from vla import artifacts
from vla.errors import CheckpointError, DataError
from vla.models.bundle import write_tensors

log = logging.getLogger(__name__)
METADATA = "metadata.json"
DAMAGED = ".damaged"
"""Suffix of a checkpoint that was set aside."""
FULL = {
    errno.ENOSPC: "Free some space ('vla clean' and 'dvc gc -w' help)",
    errno.EDQUOT: "Free some space ('vla clean' and 'dvc gc -w' help), or have the quota raised",
    errno.EFBIG: "Raise the limit of a file's size (ulimit -f)",
}
"""Errors of a place that takes no more -> what to do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint read back."""

    path: Path
    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    notes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Retention:
    """Which checkpoints stay when a new one is written; the newest one always does."""

    newest: int
    """How many of the newest stay."""
    every: int | None = None
    """The first one at or after each multiple of this step stays for good."""
    best: int | None = None
    """This step's stays as well."""

    def keeps(self, steps: Sequence[int]) -> set[int]:
        """Those of the ascending `steps` that stay."""
        kept = {*steps[-self.newest :], *([] if self.best is None else [self.best])}
        if self.every is not None:
            first = {step // self.every: step for step in reversed(steps)}
            kept.update(step for period, step in first.items() if period > 0)
        return kept


def save(
    folder: Path,
    *,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    notes: Mapping[str, Any],
    retention: Retention,
) -> Path:
    """Write the checkpoint of `step` with JSON-ready `notes`, then remove those that need not be kept.

    For the process that holds the state. Raises CheckpointError when the disk is full; the others are as they were.
    """
    path = path_of(folder, step)
    artifacts.remove_leftovers(folder)
    try:
        with artifacts.new_directory(path) as partial:
            for stem, values in tensors.items():
                write_tensors(partial / f"{stem}.safetensors", values)
            digests = {file.name: artifacts.digest_of_file(file) for file in sorted(partial.iterdir())}
            content = {"step": step, "files": digests, "notes": dict(notes)}
            artifacts.write_json(partial / METADATA, {**content, "digest": artifacts.digest_of_value(content)})
    except OSError as error:
        advice = FULL.get(error.errno or 0)
        if advice is None:
            raise
        needed = sum(value.nbytes for values in tensors.values() for value in values.values())
        last = last_step(folder)
        raise CheckpointError(
            f"{folder}: expected room for {needed:,} bytes, the checkpoint of step {step}, found '{error.strerror}' "
            f"with {shutil.disk_usage(folder).free:,} bytes free. {advice}, then run the same command again: it goes "
            f"on from {f'the checkpoint of step {last}' if last else 'the start, as there is no checkpoint yet'}."
        ) from error
    _drop_old(folder, retention)
    return path


def _drop_old(folder: Path, retention: Retention) -> None:
    """Remove the checkpoints that need not be kept, and the damaged ones that are older than the newest that are."""
    found = steps(folder)
    kept = retention.keeps(found)
    for step in found:
        if step not in kept:
            artifacts.remove_directory(path_of(folder, step))
    oldest = min(found[-retention.newest :])
    for damaged in folder.glob(f"*{DAMAGED}"):
        if damaged.stem.isdigit() and int(damaged.stem) < oldest:
            artifacts.remove_directory(damaged)


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in `folder`, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(item.name) for item in folder.iterdir() if item.name.isdigit())


def last_step(folder: Path) -> int:
    """Step of the newest checkpoint in `folder`, 0 without one."""
    return max(steps(folder), default=0)


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"{step:08d}"


def newest_intact(folder: Path) -> int | None:
    """Step of the newest intact checkpoint; damaged ones are named in the log and set aside as `<step>.damaged`.

    For the process that holds the state: it also removes what an interrupted save has left.
    """
    artifacts.remove_leftovers(folder)
    for step in reversed(steps(folder)):
        path = path_of(folder, step)
        try:
            verify(path)
        except CheckpointError as error:
            log.warning("%s Going back to the checkpoint before it.", error)
            aside = path.with_suffix(DAMAGED)
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        else:
            return step
    return None


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, verified."""
    values = verify(path)
    tensors = {Path(name).stem: load_file(path / name) for name in values["files"]}
    return Checkpoint(path, values["step"], tensors, values["notes"])


def verify(path: Path) -> dict[str, Any]:
    """Compare every file with its digest; returns the metadata, raises CheckpointError naming the damaged file."""
    values = _read_metadata(path)
    for name, digest in values["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file}: expected a file, found none. The checkpoint is damaged.")
        found = artifacts.digest_of_file(file)
        if found != digest:
            raise CheckpointError(f"{file}: expected SHA-256 {digest}, found {found}. The checkpoint is damaged.")
    return values


def _read_metadata(path: Path) -> dict[str, Any]:
    """The metadata, which covers itself by a digest, since nothing else would notice a changed number in it."""
    file = path / METADATA
    try:
        values = artifacts.read_json(file, made_by="vla train")
        content = {name: value for name, value in values.items() if name != "digest"}
        intact = values["digest"] == artifacts.digest_of_value(content)
    except (DataError, AttributeError, KeyError, TypeError):
        intact = False
    if not intact or content["step"] != int(path.name):
        raise CheckpointError(f"{file}: expected the metadata of step {int(path.name)}, found none or damaged ones.")
    return content
