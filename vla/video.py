"""Frames out of video files, found by when they are shown: counting frames goes wrong as soon as one is missing.

Decoding starts at the key frame before the first wanted frame and runs to the last, which is right for whole episodes.
"""

from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import Float64, UInt8

from vla.errors import DataError


def read_frames(
    path: Path, times_T: Float64[np.ndarray, "T"], *, fps: float, size: tuple[int, int], where: str
) -> UInt8[np.ndarray, "T Y X 3"]:
    """The frames shown at the ascending `times_T` (seconds of the file), as RGB.

    A frame counts when it is shown less than half a frame's duration from the wanted time; raises DataError, beginning
    with `where`, when there is none, or when a frame is not of `size` (rows, columns).
    """
    frames = np.empty((len(times_T), *size, 3), dtype=np.uint8)
    found = np.zeros(len(times_T), dtype=bool)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if stream.time_base is None:
                raise DataError(f"{where}: expected a video with times in {path}, found none. Encode it again.")
            container.seek(max(0, int((times_T[0] - 0.5 / fps) / stream.time_base)), stream=stream)
            for frame in container.decode(stream):
                if frame.time is None or frame.time > times_T[-1] + 0.5 / fps:
                    break
                wanted = int(np.abs(times_T - frame.time).argmin())
                if abs(times_T[wanted] - frame.time) >= 0.5 / fps:
                    continue
                if (frame.height, frame.width) != size:
                    raise DataError(
                        f"{where}: expected {size[0]} x {size[1]} pixels as declared, "
                        f"found {frame.height} x {frame.width} in {path}. Repair the dataset."
                    )
                frames[wanted] = frame.to_ndarray(format="rgb24")
                found[wanted] = True
    except FileNotFoundError:
        raise DataError(f"{where}: expected a video at {path}, found none. Download the dataset again.") from None
    except (FFmpegError, IndexError) as error:
        raise DataError(f"{where}: expected a video that can be decoded, {path}: {error}. Download it again.") from None
    if not found.all():
        missing = times_T[~found]
        raise DataError(
            f"{where}: expected a frame every {1 / fps:.4f} s in {path}, found none at {missing[0]:.4f} s "
            f"({len(missing)} of {len(times_T)} are missing). Download the dataset again or leave out the episode."
        )
    return frames
