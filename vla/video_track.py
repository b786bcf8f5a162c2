"""One open video file under PyAV: where its decoder stands, and whether to decode on or to jump to a key frame.

One thread decodes: a second one delivers 20 to 30 % more frames of 640 x 480 AV1 for 20 % more CPU time, and fewer of
anything smaller; parallel work belongs into parallel readers. Key frames and the number of frames are taken from the
index that MP4 files have; a file without one is read through once, which decodes nothing either.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Bool, Float64, Int64, UInt8, UInt16

SAME = 0.25
"""A frame this close to the wanted time, in frames of the video, is it: its neighbours are not looked at."""
WORTHWHILE = 4
"""A jump empties the decoder, which costs about this many frames; it has to save more."""
HELD_FRAMES = 24
"""Pictures that a decoder holds: up to 16 to refer to, and those under way."""

Listed = tuple[Int64[np.ndarray, "F"], Bool[np.ndarray, "F"], Bool[np.ndarray, "F"]]
"""Of each frame in the order of the file: its time in ticks, whether it is a key frame, and whether it is shown at all:
what was cut off without encoding anew is still there."""


class DamagedVideoError(Exception):
    """The file is not what a video has to be; FFmpeg's own errors say so too."""


class Track:
    """The first video stream of a file; after an error it is still good for other times."""

    def __init__(self, path: Path) -> None:
        self._path, self._container = path, av.open(str(path))
        if not self._container.streams.video or self._container.streams.video[0].time_base is None:
            self._container.close()
            raise DamagedVideoError("it has no frames with times")
        self._stream = self._container.streams.video[0]
        self._tick = float(self._container.streams.video[0].time_base)
        codec = self._stream.codec_context
        codec.thread_count = 1
        codec.options = {"err_detect": "explode"}  # a frame with concealed damage would look like a good one
        self._before: av.VideoFrame | None = None
        self._frame: av.VideoFrame | None = None
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._ended = False
        self._reformatter = VideoReformatter()
        self.decoded = 0
        """The number of frames that PyAV has decoded so far."""
        self.nbytes = HELD_FRAMES * codec.width * codec.height * 3 + 100 * len(self._stream.index_entries)
        """An estimate of the memory held."""

    def close(self) -> None:
        """Free the decoder and close the file."""
        self._forget()
        self._container.close()

    def rgb(self, time: float, *, fps: float) -> UInt8[np.ndarray, "Y X 3"] | None:
        """The frame shown nearest to `time` (seconds); None where it is half a frame at `fps` away or more."""
        return self._pixels(time, fps, "rgb24")

    def grey(self, time: float, *, fps: float) -> UInt16[np.ndarray, "Y X"] | None:
        """Levels of grey of the frame that `rgb` gives the colours of: FFmpeg's `gray16le`."""
        return self._pixels(time, fps, "gray16le")

    def _pixels(self, time: float, fps: float, pixel_format: str) -> np.ndarray | None:
        frame = self._nearest(time, fps)
        # A frame's own conversion would set up FFmpeg's scaler for each frame, which takes longer than the conversion.
        # Several threads would not survive a fork, and do not always give the same levels of grey.
        reformat = self._reformatter.reformat
        return None if frame is None else reformat(frame, format=pixel_format, threads=1).to_ndarray()

    def _nearest(self, time: float, fps: float) -> av.VideoFrame | None:
        slack = SAME / max(fps, float(self._stream.average_rate or 0))
        try:
            self._reach(time, slack)
        except (av.FFmpegError, DamagedVideoError):
            self._reach_from_beginning(time, slack)
        found = [frame for frame in (self._before, self._frame) if frame is not None]
        best = min(found, key=lambda frame: abs(frame.time - time), default=None)
        return best if best is not None and abs(best.time - time) < 0.5 / fps else None

    @cached_property
    def key_times(self) -> Float64[np.ndarray, "K"]:
        """When the key frames are shown, in seconds, ascending."""
        if self._is_indexed and self._stream.codec_context.has_b_frames:
            return self._shown(self._key_stamps) * self._tick
        return self._keys

    def count(self) -> int:
        """Frames whose data are in the file."""
        if not self._is_indexed:
            return int(self._packets[2].sum())
        size = self._path.stat().st_size
        entries = self._stream.index_entries
        return sum(entry.pos + entry.size <= size for entry in entries if not entry.is_discard)

    def _reach(self, time: float, slack: float) -> None:
        if self._must_jump(time, slack):
            self._jump(time, slack)
        while not self._ended and (self._frame is None or self._frame.time < time - slack):
            self._step()

    def _reach_from_beginning(self, time: float, slack: float) -> None:
        """Damage is what is there also without a jump: some encoders' key frames do need what lies before them."""
        keys = self._keys
        self._keys = keys[:1]
        try:
            self._jump(time, slack)
            self._reach(time, slack)
        except (av.FFmpegError, DamagedVideoError):
            self._keys = keys
            raise

    def _must_jump(self, time: float, slack: float) -> bool:
        if self._frame is None:
            return True
        earliest = self._frame if self._before is None else self._before
        key = self._keys[self._key_before(time + slack)]
        return time < earliest.time - slack or key - self._frame.time > WORTHWHILE * slack / SAME

    def _jump(self, time: float, slack: float) -> None:
        """Begin with the last key frame that is shown at or before `time`, or with the first of all."""
        for key in range(self._key_before(time + slack), -1, -1):
            self._forget()
            self._container.seek(round((self._keys[key] + slack) / self._tick), stream=self._stream)
            packets = self._container.demux(self._stream)
            first = next(packets)
            if first.pts is not None and first.pts * self._tick <= time + slack:
                break
        if not first.is_keyframe:
            raise DamagedVideoError("its key frames are not where its index has them")
        self._frames = _decoded(first, packets)

    def _step(self) -> None:
        try:
            frame = next(self._frames, None)
        except av.FFmpegError:
            self._forget()
            raise
        if frame is None:
            self._ended = True
            return
        if frame.is_corrupt or frame.time is None:
            self._forget()
            raise DamagedVideoError("a frame is marked as damaged")
        self.decoded += 1
        self._before, self._frame = self._frame, frame

    def _forget(self) -> None:
        self._before = self._frame = None
        self._frames, self._ended = iter(()), False

    def _key_before(self, time: float) -> int:
        return max(0, int(np.searchsorted(self._keys, time, side="right")) - 1)

    @cached_property
    def _keys(self) -> Float64[np.ndarray, "K"]:
        """About when the key frames are shown; exact where frames are decoded in the order in which they are shown."""
        return self._key_stamps * self._tick

    @cached_property
    def _key_stamps(self) -> Int64[np.ndarray, "K"]:
        stamps_F, is_key_F, _ = self._listed
        return np.sort(stamps_F[is_key_F])

    @cached_property
    def _listed(self) -> Listed:
        """The frames by the file's index, where it has one, else by the file itself.

        An index has decoding times: they are those of showing where frames are shown in the order in which they are
        decoded, but for the beginning.
        """
        if not self._is_indexed:
            return self._packets
        stamps_F, is_key_F, is_shown_F = _arrays(
            [(entry.timestamp, entry.is_keyframe, not entry.is_discard) for entry in self._stream.index_entries]
        )
        begin = next(iter(stamps_F[is_shown_F]), 0)
        return stamps_F - begin + (self._stream.start_time or 0), is_key_F, is_shown_F

    @cached_property
    def _is_indexed(self) -> bool:
        return 0 < len(self._stream.index_entries) == self._stream.frames

    @cached_property
    def _packets(self) -> Listed:
        """The frames as they lie in the file."""
        with av.open(str(self._path)) as container:
            packets = container.demux(container.streams.video[0])
            found = [(each.pts, each.is_keyframe, not each.is_discard) for each in packets if each.pts is not None]
        if not any(is_key for _, is_key, _ in found):
            raise DamagedVideoError("it has no key frames")
        return _arrays(found)

    def _shown(self, stamps_K: Int64[np.ndarray, "K"]) -> Int64[np.ndarray, "K"]:
        """When the key frames that the index has at `stamps_K` are shown, which their packets know."""
        shown = []
        with av.open(str(self._path)) as container:
            stream = container.streams.video[0]
            for end in [*stamps_K[1:].tolist(), np.iinfo(np.int64).max]:
                container.seek(end - 1, stream=stream)
                packet = next(container.demux(stream))
                if packet.pts is None:
                    raise DamagedVideoError("it ends before its last key frame")
                shown.append(packet.pts)
        return np.sort(np.array(shown, dtype=np.int64))


def _decoded(first: "av.Packet[VideoStream]", packets: Iterator["av.Packet[VideoStream]"]) -> Iterator[av.VideoFrame]:
    """Frames from the key frame `first` on.

    What is shown before it but stored after it may refer to what lies further back (open groups of pictures).
    """
    for packet in chain([first], packets):
        if packet.pts is None or first.pts is None or packet.pts >= first.pts:
            yield from packet.decode()


def _arrays(frames: list[tuple[int, bool, bool]]) -> Listed:
    stamps_F, is_key_F, is_shown_F = zip(*frames, strict=True)
    return np.array(stamps_F, dtype=np.int64), np.array(is_key_F, dtype=bool), np.array(is_shown_F, dtype=bool)
