"""One open video file: where its decoder stands, and whether to decode on or to jump to a key frame.

One thread decodes: a second one delivers 20 to 30 % more frames of 640 x 480 AV1 for 20 % more CPU time, and fewer of
anything smaller; parallel work belongs into parallel readers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import Float64

from vla.errors import DataError

SAME = 0.25
"""A frame this close to the wanted time, in frames of the video, is it: its neighbours are not looked at."""
WORTHWHILE = 4
"""A jump empties the decoder, which costs about this many frames; it has to save more."""
HELD_FRAMES = 24
"""Pictures that a decoder holds: up to 16 to refer to, and those under way."""


class Track:
    """The first video stream of a file. All errors are DataError and begin with `where`."""

    def __init__(self, path: Path, *, where: str) -> None:
        self.path, self.decoded = path, 0
        """`decoded` counts the frames decoded so far."""
        with self._explained(where, "at its beginning"):
            self._container = av.open(str(path))
        if not self._container.streams.video or self._container.streams.video[0].time_base is None:
            raise DataError(f"{where}: expected a video in {path}, found none. Encode it again.")
        self._stream = self._container.streams.video[0]
        codec = self._stream.codec_context
        codec.thread_count = 1
        codec.options = {"err_detect": "explode"}  # a frame with concealed damage would look like a good one
        self._before: av.VideoFrame | None = None
        self._frame: av.VideoFrame | None = None
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._ended = False
        self.nbytes = HELD_FRAMES * codec.width * codec.height * 3 + 100 * len(self._stream.index_entries)
        """An estimate of the memory held."""

    def close(self) -> None:
        """Free the decoder and close the file."""
        self._forget()
        self._container.close()

    def nearest(self, time: float, *, fps: float, where: str) -> av.VideoFrame | None:
        """The frame shown nearest to `time` (seconds); None where it is half a frame at `fps` away or more."""
        slack = SAME / max(fps, float(self._stream.average_rate or 0))
        try:
            with self._explained(where, f"at {time:.4f} s"):
                if self._must_jump(time, slack):
                    self._jump(time, slack)
                while not self._ended and (self._frame is None or self._frame.time < time - slack):
                    self._step()
        except DataError:
            self._forget()
            raise
        found = [frame for frame in (self._before, self._frame) if frame is not None]
        best = min(found, key=lambda frame: abs(frame.time - time), default=None)
        return best if best is not None and abs(best.time - time) < 0.5 / fps else None

    @cached_property
    def key_times(self) -> Float64[np.ndarray, "K"]:
        """When the key frames are shown, in seconds, ascending."""
        times, is_key = self._packets
        return np.sort(times[is_key])

    @cached_property
    def count(self) -> int:
        """Frames in the file."""
        return len(self._packets[0])

    @cached_property
    def _packets(self) -> tuple[np.ndarray, np.ndarray]:
        with av.open(str(self.path)) as container:
            stream = container.streams.video[0]
            found = [
                (float(packet.pts * packet.time_base), packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.pts is not None
            ]
        times, is_key = np.array(found, dtype=np.float64).reshape(-1, 2).T
        return times, is_key.astype(bool)

    def _must_jump(self, time: float, slack: float) -> bool:
        if self._frame is None:
            return True
        earliest = self._frame if self._before is None else self._before
        key = self._keys[self._key_before(time + slack)]
        return time < earliest.time - slack or key - self._frame.time > WORTHWHILE * slack / SAME

    def _jump(self, time: float, slack: float) -> None:
        """Decode the last frame that can be begun with at or before `time`."""
        key = self._key_before(time + slack)
        target = max(time + slack, self._keys[0])
        while True:
            self._forget()
            self._container.seek(int(target / self._stream.time_base), stream=self._stream)
            self._frames = self._container.decode(self._stream)
            self._step()
            if key == 0 or (self._frame is not None and self._frame.time <= time + slack):
                return
            key -= 1
            target = self._keys[key]

    def _step(self) -> None:
        frame = next(self._frames, None)
        if frame is None:
            self._ended = True
            return
        if frame.is_corrupt or frame.time is None:
            raise ValueError(f"a damaged frame at {frame.time} s")
        self.decoded += 1
        self._before, self._frame = self._frame, frame

    def _forget(self) -> None:
        self._before = self._frame = None
        self._frames, self._ended = iter(()), False

    def _key_before(self, time: float) -> int:
        return max(0, int(np.searchsorted(self._keys, time, side="right")) - 1)

    @cached_property
    def _keys(self) -> Float64[np.ndarray, "K"]:
        """Where key frames are about: exact times need their packets, and frames are checked after a jump."""
        stream = self._stream
        entries = stream.index_entries
        if len(entries) == 0 or len(entries) != stream.frames:
            return self.key_times if len(self.key_times) else np.zeros(1)
        stamps = np.array([entry.timestamp for entry in entries if entry.is_keyframe], dtype=np.float64)
        shift = (stream.start_time or 0) - entries[0].timestamp  # the index has decoding times
        return (stamps + shift) * float(stream.time_base or 0)

    @contextmanager
    def _explained(self, where: str, place: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise DataError(
                f"{where}: expected a video at {self.path}, found none. Download the dataset again."
            ) from None
        except (FFmpegError, ValueError) as error:
            raise DataError(
                f"{where}: expected a video that can be decoded, found {self.path} damaged {place} ({error}). "
                f"Download it again."
            ) from None
