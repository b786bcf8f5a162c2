"""Decoded frames of a small dataset, held once per machine and shared by all its processes.

The frames lie in one memory-mapped file of `.vla/frames`, so ranks share the page cache, a second run decodes
nothing, and a crash leaves nothing behind in shared memory. The price is disk space equal to the decoded size;
`execution.cache_bytes` limits it, and the oldest frames make room.
"""

import fcntl
import importlib.metadata
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from vla import artifacts
from vla.data.episodes import EpisodeTable
from vla.errors import ConfigError, DataError
from vla.formats import Recordings
from vla.transforms import Processor


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of all steps of a set of episodes in dataset order, resized to what the policy sees."""

    pixels_NVCYX: UInt8[np.ndarray, "N V C Y X"]

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        identity: str,
        table: EpisodeTable,
        dataset: Recordings,
        processor: Processor,
        limit_bytes: int,
    ) -> Self:
        """Map the frames in `folder`, decoding them first where no earlier process has; others wait meanwhile.

        `identity` stands for the dataset's contents, the choice of columns and the code that reads it.
        """
        shape = _shape(table, processor)
        path = folder / f"{_key(table, processor, identity)}.u8"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _make_room(folder, size=int(np.prod(shape)), limit_bytes=limit_bytes)
                with artifacts.new_file(path) as partial:
                    out = np.memmap(partial, dtype=np.uint8, mode="w+", shape=shape)
                    _decode(out, table=table, dataset=dataset, to_policy=processor.images)
                    out.flush()
        return cls(np.memmap(path, dtype=np.uint8, mode="r", shape=shape))


def _shape(table: EpisodeTable, processor: Processor) -> tuple[int, int, int, int, int]:
    return (int(table.length_E.sum()), len(processor.views), 3, *processor.cfg.image_size)


def _key(table: EpisodeTable, processor: Processor, identity: str) -> str:
    """Identity of the decoded frames: data, code, decoders, and what is done to the pixels."""
    decoders = [importlib.metadata.version(library) for library in ("av", "pillow")]
    size = list(processor.cfg.image_size)
    return artifacts.digest_of_value(
        [identity, table.digest, table.episode_id_E.tolist(), processor.views, size, decoders]
    )


def _decode(
    out: UInt8[np.ndarray, "N V C Y X"],
    *,
    table: EpisodeTable,
    dataset: Recordings,
    to_policy: Callable[..., UInt8[np.ndarray, "T V C Y X"]],
) -> None:
    start = 0
    lengths = zip(table.episode_id_E.tolist(), table.length_E.tolist(), strict=True)
    for episode, length in tqdm(lengths, total=len(table), desc="decoding frames", leave=False, disable=None):
        frames = to_policy({view: dataset.images(episode, view) for view in dataset.schema.views})
        if len(frames) != length:
            raise DataError(
                f"episode {episode}: expected {length} frames, found {len(frames)}. Run 'dvc repro validate'."
            )
        out[start : start + length] = frames
        start += length


def _make_room(folder: Path, *, size: int, limit_bytes: int) -> None:
    """Remove the oldest frames beyond the limit; a process that has mapped them keeps them until it ends."""
    if size > limit_bytes:
        raise ConfigError(
            f"execution.cache_bytes: expected room for {size:,} bytes of decoded frames, found {limit_bytes:,}. "
            f"Raise it, lower transforms.image_size, or drop a view from data.columns.views."
        )
    kept = sorted(folder.glob("*.u8"), key=lambda file: file.stat().st_mtime)
    while kept and sum(file.stat().st_size for file in kept) + size > limit_bytes:
        kept.pop(0).unlink()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{folder}: expected {size:,} free bytes for decoded frames, found {free:,}. Make room on the disk."
        )
