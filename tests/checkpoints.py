"""Little checkpoints whose tensors say which step they are of."""

from pathlib import Path

import torch

from vla.training import checkpoint
from vla.training.checkpoint import Checkpoint, Retention

TENSORS = {"model": {"w": torch.arange(4.0)}, "optimizer": {"w/step": torch.tensor(3.0)}, "ema": {"w": torch.ones(4)}}


def save(folder: Path, step: int, retention: Retention | None = None) -> Path:
    """A checkpoint in which every tensor is larger by `step`."""
    tensors = {stem: {name: value + step for name, value in values.items()} for stem, values in TENSORS.items()}
    return checkpoint.save(folder, step=step, tensors=tensors, notes={"loss": 0.5}, retention=retention or Retention(2))


def loaded(folder: Path) -> Checkpoint:
    """The newest intact checkpoint, which must be what was saved at its step."""
    step = checkpoint.newest_intact(folder)
    assert step is not None, "no intact checkpoint"
    found = checkpoint.load(checkpoint.path_of(folder, step))
    assert found.step == step
    for stem, values in TENSORS.items():
        for name, value in values.items():
            assert torch.equal(found.tensors[stem][name], value + step)
    return found


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())
