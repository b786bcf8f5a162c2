"""Colours decoded by torchcodec, with the FFmpeg of the system; all else about a file is what PyAV says of it.

torchcodec is told when each frame is shown, so a frame is found exactly as with PyAV, also behind a cut, where its own
scan of a file leads to wrong ones. A file whose frames are stored in another order is read through once for that.

Videos of 8 bits give the pixels that PyAV gives. These give others: videos of 10 bits and more, which are converted in
another way; videos that say that they are to be rotated, which torchcodec does; and damaged ones, where torchcodec
delivers what the decoder makes of the damage, as long as it makes anything of it.
"""

import json
import re
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from vla.errors import ConfigError
from vla.video_track import DamagedVideoError, Listed, Track

ORIGIN = re.compile(r"^\w+, \S+:\d+, ")
"""How an error of torchcodec begins: function, file and line of its own code."""
SENTENCE = re.compile(r"\.?\s*(?:\n|$)|\.\s")
"""Where the first sentence of an error ends."""


class TorchcodecTrack(Track):
    """The first video stream of a file; `nbytes` holds as well, since of two decoders one does nothing."""

    def __init__(self, path: Path) -> None:
        library = load()
        super().__init__(path)
        self._library, self._decoder = library, None

    def close(self) -> None:
        """Free the decoder and close the file."""
        self._decoder = None
        super().close()

    def rgb(self, time: float, *, fps: float) -> UInt8[np.ndarray, "Y X 3"] | None:
        """The frame shown nearest to `time` (seconds); None where it is half a frame at `fps` away or more."""
        time_S, place_S = self._shown_frames
        after = int(np.searchsorted(time_S, time))
        near = range(max(0, after - 1), min(after + 1, len(time_S)))
        best = min(near, key=lambda shown: abs(time_S[shown] - time), default=None)
        if best is None or abs(time_S[best] - time) >= 0.5 / fps:
            return None
        try:
            frame = self._opened().get_frame_at(int(place_S[best]))
        except (RuntimeError, IndexError) as error:
            self._decoder = None  # it would go on behind the damage, with pictures that are made of it
            raise DamagedVideoError(ORIGIN.sub("", str(error).partition("\n")[0])) from None
        if abs(frame.pts_seconds - time_S[best]) >= self._tick:
            raise DamagedVideoError("its frames are not where its index has them")
        pixels: UInt8[np.ndarray, "Y X 3"] = frame.data.numpy()
        return pixels

    def _opened(self) -> Any:
        """torchcodec's decoder."""
        if self._decoder is None:
            stamps_F, is_key_F, _ = self._frames_in_time
            gaps_F = np.diff(stamps_F, append=stamps_F[-1:] + 1)
            frames = zip(stamps_F.tolist(), gaps_F.tolist(), is_key_F.tolist(), strict=True)
            listed = [{"pts": stamp, "duration": gap, "key_frame": int(is_key)} for stamp, gap, is_key in frames]
            self._decoder = self._library.decoders.VideoDecoder(
                self._path,
                stream_index=self._stream.index,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                device="cpu",
                custom_frame_mappings=json.dumps({"frames": listed}),
            )
        return self._decoder

    @cached_property
    def _frames_in_time(self) -> Listed:
        """All frames, in the order in which they are shown: those that are not shown lead to those that are."""
        by_index = self._is_indexed and not self._stream.codec_context.has_b_frames
        stamps_F, is_key_F, is_shown_F = self._listed if by_index else self._packets
        order_F = np.argsort(stamps_F, kind="stable")
        return stamps_F[order_F], is_key_F[order_F], is_shown_F[order_F]

    @cached_property
    def _shown_frames(self) -> tuple[Float64[np.ndarray, "S"], Int64[np.ndarray, "S"]]:
        """When the frames that are shown are shown, in seconds and ascending, and their places among all frames."""
        stamps_F, _, is_shown_F = self._frames_in_time
        place_S = np.flatnonzero(is_shown_F)
        return stamps_F[place_S] * self._tick, place_S


def load() -> ModuleType:
    """The library; raises ConfigError where it, or what it needs, cannot be loaded."""
    try:
        import torchcodec

        reason = "" if torchcodec.ffmpeg_major_version else "no FFmpeg that it knows"
    except (ImportError, OSError, RuntimeError) as error:
        reason = SENTENCE.split(str(error.__cause__ or error))[0]
    if reason:
        raise ConfigError(
            f"data.video_backend: expected torchcodec in a build for this PyTorch, and the shared libraries of FFmpeg, "
            f"found {reason}. Install them (pip install 'vlaflow[video]', apt install ffmpeg; docs/datasets.md has the "
            f"builds), or choose pyav."
        )
    return torchcodec


def versions() -> list[str]:
    """Versions of torchcodec and of its FFmpeg."""
    library = load()
    return [f"torchcodec {library.__version__}", f"FFmpeg {library.ffmpeg_major_version}"]
