"""Frames out of video files, found by when they are shown: counting frames goes wrong as soon as one is missing.

PyAV decodes (AV1, H.264, HEVC and whatever else FFmpeg knows), or for colours another backend (`vla.video_backend`).
The last videos stay open where their reading ended, so whoever reads on decodes every frame once; whoever jumps pays
for the frames since the key frame before, which can be hundreds. Each thread has videos of its own, and no decoder
crosses a fork, which is what crashes other loaders.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from av import FFmpegError
from jaxtyping import Float32, Float64, UInt8, UInt16

from vla.errors import DataError
from vla.video_backend import VideoBackend, backend_versions, open_track
from vla.video_track import DamagedVideoError, Track

OPEN_VIDEOS = 8
OPEN_BYTES = 512_000_000
"""What the decoders of the open videos may hold, by the estimate of `Track.nbytes`."""

Grey = UInt16[np.ndarray, "Y X"]
Metres = Float32[np.ndarray, "Y X"]


class Videos:
    """The videos of a process, for one thread. Copies and forks start with nothing open.

    All errors are DataError and name the file and `where` (the episode, say), and a time where there is one.
    """

    def __init__(self, backend: VideoBackend = "pyav") -> None:
        backend_versions(backend)  # whatever is not installed is missed here rather than at the first frame
        self._backend = backend
        self._tracks: OrderedDict[Path, Track] = OrderedDict()
        self._process = os.getpid()
        self._inherited: list[OrderedDict[Path, Track]] = []

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), (self._backend,)

    def frames(
        self, path: Path, times_N: Float64[np.ndarray, "N"], *, fps: float, size: tuple[int, int], where: str
    ) -> UInt8[np.ndarray, "N Y X 3"]:
        """The frames shown at `times_N` (seconds of the file), in any order and as often as asked for, as RGB.

        The frame that is nearest to a wanted time counts, when it is less than half a frame at `fps` away. Raises
        DataError when there is none, or when a frame is damaged or not of `size` (rows, columns).
        """
        images = np.empty((len(times_N), *size, 3), dtype=np.uint8)
        self._read(path, times_N, images, lambda track, time: track.rgb(time, fps=fps), fps=fps, where=where)
        return images

    def depth(
        self,
        path: Path,
        times_N: Float64[np.ndarray, "N"],
        *,
        fps: float,
        size: tuple[int, int],
        decode: Callable[[Grey], Metres],
        where: str,
    ) -> Float32[np.ndarray, "N Y X"]:
        """Depth maps in metres, found like `frames`; `decode` turns one frame's 16-bit grey levels into metres.

        The levels are those of FFmpeg's `gray16le`: luma stretched to all 16 bits, so a 12-bit code q of a `gray12le`
        video arrives as 16 q + q // 256, which q = level >> 4 undoes.
        """

        def metres(track: Track, time: float) -> Metres | None:
            grey = track.grey(time, fps=fps)
            return None if grey is None else decode(grey)

        depth = np.empty((len(times_N), *size), dtype=np.float32)
        self._read(path, times_N, depth, metres, fps=fps, where=where)
        return depth

    def key_times(self, path: Path, *, where: str) -> Float64[np.ndarray, "K"]:
        """When the key frames are shown, in seconds, ascending; decodes nothing."""
        with _explained(path, where, "when asked for its key frames"):
            return self._track(path).key_times

    def count(self, path: Path, *, where: str) -> int:
        """The number of frames whose data are in the file; decodes nothing."""
        with _explained(path, where, "when its frames were counted"):
            return self._track(path).count()

    def _read(
        self,
        path: Path,
        times_N: Float64[np.ndarray, "N"],
        target: np.ndarray,
        look: Callable[[Track, float], np.ndarray | None],
        *,
        fps: float,
        where: str,
    ) -> None:
        """Fill `target`, going through the wanted times in ascending order."""
        wanted_U, place_N = np.unique(times_N, return_inverse=True)
        order_N = np.argsort(place_N, kind="stable")
        ends_U = np.searchsorted(place_N[order_N], np.arange(len(wanted_U)), side="right").tolist()
        size, missing = target.shape[1:3], []
        for start, end, time in zip([0, *ends_U], ends_U, wanted_U.tolist(), strict=False):
            with _explained(path, where, f"at {time:.4f} s"):
                frame = look(self._track(path), time)
            if frame is None:
                missing.append(time)
                continue
            if frame.shape[:2] != size:
                raise DataError(
                    f"{where}: expected {size[0]} x {size[1]} pixels as declared, "
                    f"found {frame.shape[0]} x {frame.shape[1]} in {path}. Repair the dataset."
                )
            target[order_N[start:end]] = frame
        if missing:
            raise DataError(
                f"{where}: expected a frame every {1 / fps:.4f} s in {path}, found none at {missing[0]:.4f} s "
                f"({len(missing)} of {len(wanted_U)} are missing). Download the dataset again or leave out the episode."
            )

    def _track(self, path: Path) -> Track:
        if self._process != os.getpid():
            # The parent's decoders are kept, not closed: the threads that closing waits for are not in this process.
            self._inherited.append(self._tracks)
            self._tracks, self._process = OrderedDict(), os.getpid()
        if path not in self._tracks:
            self._tracks[path] = open_track(path, self._backend)
            while len(self._tracks) > 1 and not self._fits():
                self._tracks.popitem(last=False)[1].close()
        self._tracks.move_to_end(path)
        return self._tracks[path]

    def _fits(self) -> bool:
        total = sum(track.nbytes for track in self._tracks.values())
        return len(self._tracks) <= OPEN_VIDEOS and total <= OPEN_BYTES


@contextmanager
def _explained(path: Path, where: str, place: str) -> Iterator[None]:
    """Turn what FFmpeg and `Track` have to say about a file into a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{where}: expected a video at {path}, found none. Download the dataset again.") from None
    except (FFmpegError, DamagedVideoError) as error:
        raise DataError(
            f"{where}: expected a video that can be decoded, found {path} damaged {place} ({error}). Download it again."
        ) from None
