"""Files of tensors that other projects write: safetensors, or pickles of which only tensors are read."""

import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vla.errors import CheckpointError

NAMES = ("model.safetensors", "pytorch_model.bin", "model.pt", "model.pth")
"""What the file of a checkpoint's weights is called, the best first."""


def find(folder: Path) -> Path:
    """The file of a checkpoint's weights."""
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    found = ", ".join(sorted(item.name for item in folder.iterdir())[:8]) if folder.is_dir() else "no folder"
    raise CheckpointError(
        f"{folder}: expected a checkpoint with one of {', '.join(NAMES)}, found {found or 'nothing'}. Give the folder "
        f"that holds the weights."
    )


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, as they are; a pickle is read without running what it may hold."""
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: expected tensors, found a damaged file ({reason}). Get it again.") from None
    _check(tensors, path)
    return tensors


def to_float32(tensors: Mapping[str, Tensor], *, where: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors as float32, and a note about each type that was another."""
    kinds = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    if wrong := sorted(kinds.keys() - {"float32", "bfloat16", "float16"}):
        raise CheckpointError(
            f"{where}: expected float32, bfloat16 or float16, found {', '.join(wrong)}. Convert the checkpoint."
        )
    notes = [f"made float32 of {count} tensors of {kind}" for kind, count in sorted(kinds.items()) if kind != "float32"]
    return {name: tensor.float() for name, tensor in tensors.items()}, tuple(notes)


def _check(tensors: Any, path: Path) -> None:
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(
            f"{path}: expected a mapping from names to tensors, found other things. Give the weights alone."
        )
