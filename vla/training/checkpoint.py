"""Checkpoints that are complete, verified and bounded in number.

    <folder>/<step>/{model,optimizer,ema}.safetensors  metadata.json

A checkpoint is written to a temporary directory, synced and renamed, with a SHA-256 per file in its metadata. So a
kill at any byte leaves the earlier ones untouched, and a damaged file is found before anything is loaded.
"""

import logging
import shutil
from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint read back."""

    path: Path
    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    notes: Mapping[str, Any]


def save(
    folder: Path, *, step: int, tensors: Mapping[str, Mapping[str, Tensor]], notes: Mapping[str, Any], keep: int
) -> Path:
    """Write the checkpoint of `step` with JSON-ready `notes`, then drop all but the newest `keep`."""
    path = path_of(folder, step)
    with artifacts.new_directory(path) as partial:
        for stem, values in tensors.items():
            write_tensors(partial / f"{stem}.safetensors", values)
        digests = {file.name: artifacts.digest_of_file(file) for file in sorted(partial.iterdir())}
        content = {"step": step, "files": digests, "notes": dict(notes)}
        artifacts.write_json(partial / METADATA, {**content, "digest": artifacts.digest_of_value(content)})
    for old in steps(folder)[:-keep]:
        shutil.rmtree(path_of(folder, old))
    return path


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
    for leftover in folder.glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for step in reversed(steps(folder)):
        path = path_of(folder, step)
        try:
            verify(path)
        except CheckpointError as error:
            log.warning("%s Going back to the checkpoint before it.", error)
            shutil.rmtree(path.with_suffix(".damaged"), ignore_errors=True)
            path.rename(path.with_suffix(".damaged"))
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
