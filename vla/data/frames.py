"""Decoded frames: of a few steps in memory, or of a small dataset in a file that all processes of a machine share.

In memory and on disk a pixel's colours lie together, as decoders leave them; arrays show the channels before rows.
The file is memory-mapped from `.vla/frames`, so ranks share the page cache, a second run decodes nothing, and a crash
leaves nothing behind in shared memory. The price is disk space equal to the decoded size; `execution.cache_bytes`
limits it, and the oldest frames make room.
"""

import fcntl
import importlib.metadata
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Int64, UInt8
from tqdm import tqdm

from vla import artifacts
from vla.data.samples import Samples, runs
from vla.errors import ConfigError, DataError
from vla.formats import Recordings

AT_ONCE = 256
"""Steps that are decoded in one go: frames as recorded can be a hundred times larger than what the policy sees."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of steps of a split, resized to what the policy sees."""

    stored_NVYXC: UInt8[np.ndarray, "N V Y X C"]
    step_N: Int64[np.ndarray, "N"] | None
    """The steps (numbered over the split), ascending; None for all of the split."""

    def rows(self, step_BT: Int64[np.ndarray, "B T"]) -> Int64[np.ndarray, "B T"]:
        """Where the frames of the given steps are."""
        return step_BT if self.step_N is None else np.searchsorted(self.step_N, step_BT)

    def take(self, row_BT: Int64[np.ndarray, "B T"]) -> UInt8[np.ndarray, "B T V C Y X"]:
        """A copy of the given rows."""
        return channels_first(self.stored_NVYXC[row_BT])

    @classmethod
    def open(
        cls,
        folder: Path,
        samples: Samples,
        dataset: Recordings,
        *,
        identity: str,
        limit_bytes: int,
        step_N: Int64[np.ndarray, "N"] | None = None,
    ) -> Self:
        """Map the frames in `folder`, decoding them first where no earlier process has; others wait meanwhile.

        `identity` stands for the dataset's contents, the choice of columns and the code that reads it. All files that a
        training maps must fit into `limit_bytes` together, or they would push each other out.
        """
        shape = stored_shape(samples, len(samples) if step_N is None else len(step_N))
        path = folder / f"{_key(samples, step_N, identity)}.u8"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _make_room(folder, size=int(np.prod(shape)), limit_bytes=limit_bytes)
                with (
                    artifacts.new_file(path) as partial,
                    tqdm(total=shape[0], desc="decoding frames", unit="step", leave=False, disable=None) as bar,
                ):
                    out = np.memmap(partial, dtype=np.uint8, mode="w+", shape=shape)
                    for row, frames in _decode(samples, dataset, step_N):
                        out[row : row + len(frames)] = frames
                        bar.update(len(frames))
                    out.flush()
            path.touch()  # the frames used last are the last to make room
            # Mapped under the lock: afterwards another training may remove the file, which a map outlives.
            return cls(np.memmap(path, dtype=np.uint8, mode="r", shape=shape), step_N)

    @classmethod
    def decode(cls, samples: Samples, dataset: Recordings, step_N: Int64[np.ndarray, "N"]) -> Self:
        """The frames of the given steps (ascending) in memory."""
        out = np.empty(stored_shape(samples, len(step_N)), dtype=np.uint8)
        for row, frames in _decode(samples, dataset, step_N):
            out[row : row + len(frames)] = frames
        return cls(out, step_N)


def stored_shape(samples: Samples, *leading: int) -> tuple[int, ...]:
    """Shape of frames as they lie in memory; as many bytes as elements."""
    return (*leading, len(samples.processor.views), *samples.processor.cfg.image_size, 3)


def channels_first(stored: UInt8[np.ndarray, "*batch V Y X C"]) -> UInt8[np.ndarray, "*batch V C Y X"]:
    """A view with the axes as policies have them."""
    return np.moveaxis(stored, -1, -3)


def _key(samples: Samples, step_N: Int64[np.ndarray, "N"] | None, identity: str) -> str:
    """Identity of the decoded frames: data, code, decoders, and what is done to the pixels."""
    table, processor = samples.table, samples.processor
    decoders = [importlib.metadata.version(library) for library in ("av", "pillow")]
    size = list(processor.cfg.image_size)
    chosen = [] if step_N is None else step_N.tolist()
    return artifacts.digest_of_value(
        [identity, table.digest, table.episode_id_E.tolist(), chosen, processor.views, size, decoders]
    )


def _decode(
    samples: Samples, dataset: Recordings, step_N: Int64[np.ndarray, "N"] | None
) -> Iterator[tuple[int, UInt8[np.ndarray, "K V Y X C"]]]:
    """The frames of the given steps in their order, piece by piece: row of the first, and the frames."""
    row = 0
    for episode, step_K in _by_episode(samples, step_N):
        number = int(samples.table.episode_id_E[episode])
        for begin in range(0, len(step_K), AT_ONCE):
            part = step_K[begin : begin + AT_ONCE]
            # A reader that knows that it is asked for everything has less to do.
            wanted = None if len(part) == samples.table.length_E[episode] else part
            frames = samples.processor.images(
                {view: dataset.images(number, view, wanted) for view in samples.processor.views}
            )
            if len(frames) != len(part):
                raise DataError(
                    f"episode {number}: expected {len(part)} frames, found {len(frames)}. Run 'dvc repro validate'."
                )
            yield row, np.moveaxis(frames, -3, -1)
            row += len(frames)


def _by_episode(
    samples: Samples, step_N: Int64[np.ndarray, "N"] | None
) -> Iterator[tuple[int, Int64[np.ndarray, "K"]]]:
    """Row of the table, and the wanted steps within that episode."""
    if step_N is None:
        yield from ((episode, np.arange(length)) for episode, length in enumerate(samples.table.length_E))
    else:
        episode_N, within_N = samples.windows.locate(step_N)
        yield from ((int(episode_N[begin]), within_N[begin:end]) for begin, end in runs(episode_N))


def _make_room(folder: Path, *, size: int, limit_bytes: int) -> None:
    """Remove the oldest frames beyond the limit; a process that has mapped them keeps them until it ends."""
    if size > limit_bytes:
        raise ConfigError(
            f"execution.cache_bytes: expected room for {size:,} bytes of decoded frames, found {limit_bytes:,}. "
            f"Raise it, lower transforms.image_size, set train.order to blocks, or drop a view from data.columns.views."
        )
    kept = sorted(folder.glob("*.u8"), key=lambda file: file.stat().st_mtime)
    while kept and sum(file.stat().st_size for file in kept) + size > limit_bytes:
        kept.pop(0).unlink()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{folder}: expected {size:,} free bytes for decoded frames, found {free:,}. Make room on the disk."
        )
