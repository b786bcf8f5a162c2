"""Frames of video files, found by presentation time."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vla.errors import DataError
from vla.video import read_frames

FPS, SIZE = 10, (16, 24)


def brightness(number: int) -> int:
    return 10 + 6 * number


def write_video(path: Path, numbers: Sequence[int], *, key_every: int = 4) -> Path:
    """Frame `number` is shown at number / FPS and has a grey of its own."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "0", "g": str(key_every), "bf": "0"})
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FPS)
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE, 3), brightness(number), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(path: Path, first: int, count: int, *, shift: float = 0.0) -> np.ndarray:
    times = np.arange(first, first + count) / FPS + shift
    return read_frames(path, times, fps=FPS, size=SIZE, where="Episode 3, cam")


def greys(frames: np.ndarray) -> list[int]:
    return [round(value) for value in frames.mean(axis=(1, 2, 3))]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "video.mp4", range(30))


@pytest.mark.parametrize(("first", "count"), [(0, 30), (0, 1), (3, 5), (4, 4), (29, 1)])
def test_the_wanted_frames_are_found_wherever_the_key_frames_are(video: Path, first: int, count: int) -> None:
    frames = read(video, first, count)
    assert frames.shape == (count, *SIZE, 3)
    np.testing.assert_allclose(greys(frames), [brightness(first + k) for k in range(count)], atol=2)


@pytest.mark.parametrize("shift", [-0.04, 0.04])
def test_times_may_drift_by_less_than_half_a_frame(video: Path, shift: float) -> None:
    np.testing.assert_allclose(greys(read(video, 7, 2, shift=shift)), [brightness(7), brightness(8)], atol=2)


def test_a_missing_frame_is_not_replaced_by_its_neighbour(tmp_path: Path) -> None:
    path = write_video(tmp_path / "gap.mp4", [*range(5), *range(6, 12)])
    np.testing.assert_allclose(greys(read(path, 6, 3)), [brightness(k) for k in (6, 7, 8)], atol=2)
    with pytest.raises(DataError, match=r"Episode 3, cam: .*found none at 0\.5000 s \(1 of 8 are missing\)"):
        read(path, 2, 8)


def test_times_after_the_end_are_an_error(video: Path) -> None:
    with pytest.raises(DataError, match=r"found none at 3\.0000 s \(2 of 4 are missing\)"):
        read(video, 28, 4)


def test_another_size_than_the_declared_one_is_an_error(video: Path) -> None:
    with pytest.raises(DataError, match="expected 8 x 8 pixels as declared, found 16 x 24"):
        read_frames(video, np.array([0.0]), fps=FPS, size=(8, 8), where="Episode 0")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Episode 3, cam: expected a video at .*nowhere\.mp4, found none"):
        read(tmp_path / "nowhere.mp4", 0, 1)


def test_a_file_that_is_no_video_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(DataError, match=r"expected a video that can be decoded, .*text\.mp4"):
        read(path, 0, 1)


def test_a_truncated_video_is_an_error(video: Path) -> None:
    video.write_bytes(video.read_bytes()[:-1500])
    with pytest.raises(DataError, match=r"Episode 3, cam: .*video\.mp4"):
        read(video, 0, 30)
