"""What decodes the colours of videos (`data.video_backend`): PyAV, or torchcodec where it is installed.

Both go through FFmpeg, each through its own, and most videos give the same pixels. Not all do (see
`vla.video_torchcodec`), so the choice is a part of `data`: it decides numbers.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vla.video_track import Track

VideoBackend = Literal["pyav", "torchcodec"]


def open_track(path: Path, backend: VideoBackend) -> "Track":
    """Open a video file."""
    if backend == "torchcodec":
        from vla.video_torchcodec import TorchcodecTrack

        return TorchcodecTrack(path)
    from vla.video_track import Track

    return Track(path)


def backend_versions(backend: VideoBackend) -> list[str]:
    """What decides the pixels beside PyAV, which is always there; raises ConfigError when it is not installed."""
    if backend == "torchcodec":
        from vla import video_torchcodec

        return video_torchcodec.versions()
    return []
