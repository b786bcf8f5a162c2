"""Frames of video files, found by presentation time."""

import multiprocessing
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast, get_args

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vla import video
from vla.errors import ConfigError, DataError
from vla.video import Videos
from vla.video_backend import VideoBackend, backend_versions

SHARED = Path(__file__).parents[1] / "../shared/data"
FPS, SIZE = 10, (16, 24)
QUIET = "log-level=none"


def brightness(number: int) -> int:
    return 10 + 6 * number


def write_video(
    path: Path,
    numbers: Sequence[int],
    *,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    picture: Callable[[int], np.ndarray] = lambda number: np.full((*SIZE, 3), brightness(number), np.uint8),
    formats: tuple[str, str] = ("rgb24", "yuv420p"),
) -> Path:
    """Frame `number` is shown at number / FPS; by default it is grey and has a brightness of its own."""
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream = container.add_stream(codec, rate=FPS, options=dict(options or {"crf": "0", "g": "4", "bf": "0"}))
        stream.height, stream.width = picture(numbers[0]).shape[:2]
        stream.pix_fmt = formats[1]
        stream.time_base = Fraction(1, FPS)
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(picture(number), format=formats[0])
            frame = frame.reformat(format=formats[1], threads=1)
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def moving_picture(number: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.roll(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8), number, axis=1)


def read(videos: Videos, path: Path, first: int, count: int, *, shift: float = 0.0) -> np.ndarray:
    times = np.arange(first, first + count) / FPS + shift
    return videos.frames(path, times, fps=FPS, size=SIZE, where="Episode 3, cam")


def greys(frames: np.ndarray) -> list[int]:
    return [round(value) for value in frames.mean(axis=(1, 2, 3))]


@pytest.fixture(params=get_args(VideoBackend))
def backend(request: pytest.FixtureRequest) -> VideoBackend:
    try:
        backend_versions(request.param)
    except ConfigError as missing:
        pytest.skip(str(missing))
    return cast(VideoBackend, request.param)


@pytest.fixture
def videos(backend: VideoBackend) -> Videos:
    return Videos(backend)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_video(tmp_path / "video.mp4", range(30))


@dataclass(frozen=True)
class Decoded:
    """A video and what decoding it from its beginning gives."""

    path: Path
    fps: float
    times: np.ndarray
    frames: np.ndarray
    key_times: np.ndarray

    def read(self, videos: Videos, numbers: Sequence[int], *, shift: float = 0.0) -> np.ndarray:
        times = self.times[list(numbers)] + shift / self.fps
        return videos.frames(self.path, times, fps=self.fps, size=self.frames.shape[1:3], where="w")


def decode_all(path: Path, *, limit: int = 10**6) -> Decoded:
    times, frames = [], []
    with av.open(str(path)) as container:
        fps = float(container.streams.video[0].average_rate)
        for _, frame in zip(range(limit), container.decode(video=0), strict=False):
            times.append(frame.time)
            frames.append(frame.reformat(format="rgb24", threads=1).to_ndarray())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
        keys = sorted(float(packet.pts * packet.time_base) for packet in packets if packet.is_keyframe)
    return Decoded(path, fps, np.array(times), np.stack(frames), np.array(keys))


GENERATED = {
    "h264_long": ("libx264", {"g": "250"}, "mp4"),
    "h264_open": ("libx264", {"g": "20", "x264-params": "open-gop=1:scenecut=0"}, "mp4"),
    "h264_cut": ("libx264", {"g": "20", "bf": "0"}, "mp4"),
    "h264_matroska": ("libx264", {"g": "20"}, "mkv"),
    "hevc_long": ("libx265", {"x265-params": f"keyint=250:{QUIET}"}, "mp4"),
    "hevc_short": ("libx265", {"x265-params": f"keyint=6:min-keyint=6:scenecut=0:{QUIET}"}, "mp4"),
    "av1": ("libsvtav1", {"g": "40", "preset": "12"}, "mp4"),
}
"""Name -> encoder, its options and the kind of file."""
RECORDED = {
    "written_v30_video_061": "videos/observation.images.cam/chunk-000/file-000.mp4",
    "gr1_v20_video": "videos/chunk-000/observation.images.ego_view/episode_000000.mp4",
    "g1_v21_video": "videos/chunk-000/observation.images.cam_high/episode_000004.mp4",
}
FRAMES = 300
READ_OF_RECORDED = {"written_v30_video_061": 900, "gr1_v20_video": 416, "g1_v21_video": 60}
"""Frames to look at: the first is a file of many episodes, the last has large ones."""


@pytest.fixture(scope="module", params=[*GENERATED, *RECORDED])
def decoded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoded:
    if request.param in RECORDED:
        if not SHARED.is_dir():
            pytest.skip("the reference datasets are not on this machine")
        return decode_all(SHARED / request.param / RECORDED[request.param], limit=READ_OF_RECORDED[request.param])
    codec, options, ending = GENERATED[request.param]
    path = tmp_path_factory.mktemp("videos") / f"{request.param}.{ending}"
    first = -7 if request.param == "h264_cut" else 0  # what lies before 0 leads to the rest and is not shown
    return decode_all(write_video(path, range(first, FRAMES), codec=codec, options=options, picture=moving_picture))


@pytest.mark.parametrize(("first", "count"), [(0, 30), (0, 1), (3, 5), (4, 4), (29, 1)])
def test_the_wanted_frames_are_found_wherever_the_key_frames_are(
    path: Path, first: int, count: int, videos: Videos
) -> None:
    frames = read(videos, path, first, count)
    assert frames.shape == (count, *SIZE, 3)
    np.testing.assert_allclose(greys(frames), [brightness(first + k) for k in range(count)], atol=2)


@pytest.mark.parametrize("shift", [-0.04, 0.04])
def test_times_may_drift_by_less_than_half_a_frame(path: Path, shift: float, videos: Videos) -> None:
    np.testing.assert_allclose(greys(read(videos, path, 7, 2, shift=shift)), [brightness(7), brightness(8)], atol=2)


def test_frames_come_in_the_wanted_order_and_as_often_as_wanted(path: Path, videos: Videos) -> None:
    numbers = [9, 2, 9, 27, 0, 2]
    frames = videos.frames(path, np.array(numbers) / FPS, fps=FPS, size=SIZE, where="w")
    np.testing.assert_allclose(greys(frames), [brightness(number) for number in numbers], atol=2)
    assert videos.frames(path, np.zeros(0), fps=FPS, size=SIZE, where="w").shape == (0, *SIZE, 3)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_way_of_reading_gives_the_frames_of_a_whole_decode(
    decoded: Decoded, backend: VideoBackend, data: st.DataObject
) -> None:
    videos, last = Videos(backend), len(decoded.frames) - 1
    steps = st.lists(st.integers(0, last), min_size=1, max_size=8)
    runs = st.integers(0, last).map(lambda first: list(range(first, min(first + 30, last + 1))))
    for numbers in data.draw(st.lists(st.one_of(steps, runs), min_size=1, max_size=4)):
        shift = data.draw(st.floats(-0.4, 0.4))
        assert np.array_equal(decoded.read(videos, numbers, shift=shift), decoded.frames[numbers])


def test_reading_on_decodes_every_frame_once(decoded: Decoded) -> None:
    videos, count = Videos(), len(decoded.frames)
    for first in range(0, count, 32):
        decoded.read(videos, range(first, min(first + 32, count)))
    assert videos._track(decoded.path).decoded == count


def test_a_single_frame_is_decoded_from_its_key_frame(decoded: Decoded) -> None:
    if "open" in decoded.path.name:
        pytest.skip("this encoder's key frames need what lies before them")
    for number in (0, len(decoded.frames) // 2, len(decoded.frames) - 1):
        videos = Videos()
        decoded.read(videos, [number])
        key = decoded.key_times[decoded.key_times <= decoded.times[number] + 1e-6][-1]
        assert videos._track(decoded.path).decoded == number - np.abs(decoded.times - key).argmin() + 1


def test_key_frames_and_frames_are_known_without_decoding(decoded: Decoded, videos: Videos) -> None:
    np.testing.assert_allclose(videos.key_times(decoded.path, where="w"), decoded.key_times, atol=1e-9)
    if len(decoded.frames) == FRAMES:
        assert videos.count(decoded.path, where="w") == FRAMES
    assert videos._track(decoded.path).decoded == 0


def test_a_missing_frame_is_not_replaced_by_its_neighbour(tmp_path: Path, videos: Videos) -> None:
    path = write_video(tmp_path / "gap.mp4", [*range(5), *range(6, 12)])
    np.testing.assert_allclose(greys(read(videos, path, 6, 3)), [brightness(k) for k in (6, 7, 8)], atol=2)
    with pytest.raises(DataError, match=r"Episode 3, cam: .*found none at 0\.5000 s \(1 of 8 are missing\)"):
        read(videos, path, 2, 8)


def test_times_after_the_end_are_an_error(path: Path, videos: Videos) -> None:
    with pytest.raises(DataError, match=r"found none at 3\.0000 s \(2 of 4 are missing\)"):
        read(videos, path, 28, 4)
    np.testing.assert_allclose(greys(read(videos, path, 28, 2)), [brightness(28), brightness(29)], atol=2)


def test_another_size_than_the_declared_one_is_an_error(path: Path, videos: Videos) -> None:
    with pytest.raises(DataError, match="expected 8 x 8 pixels as declared, found 16 x 24"):
        videos.frames(path, np.array([0.0]), fps=FPS, size=(8, 8), where="Episode 0")


def test_a_missing_file_is_named(tmp_path: Path, videos: Videos) -> None:
    with pytest.raises(DataError, match=r"Episode 3, cam: expected a video at .*nowhere\.mp4, found none"):
        read(videos, tmp_path / "nowhere.mp4", 0, 1)


def test_a_file_that_is_no_video_is_an_error(tmp_path: Path, videos: Videos) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with pytest.raises(DataError, match=r"Episode 3, cam: expected a video that can be decoded, .*text\.mp4"):
        read(videos, path, 0, 1)


def test_a_video_that_lost_its_index_at_the_end_is_an_error(path: Path, videos: Videos) -> None:
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(DataError, match=r"Episode 3, cam: .*video\.mp4"):
        read(videos, path, 0, 30)
    with pytest.raises(DataError, match=r"w: .*video\.mp4"):
        videos.count(path, where="w")


def test_a_video_that_lost_frames_at_the_end_is_read_as_far_as_it_goes(tmp_path: Path, videos: Videos) -> None:
    path = write_video(tmp_path / "cut.mp4", range(30), container_options={"movflags": "faststart"})
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"mdat") + (len(whole) - whole.index(b"mdat")) // 2])
    present = videos.count(path, where="w")
    assert 5 < present < 25
    np.testing.assert_allclose(greys(read(videos, path, 0, present)), [brightness(k) for k in range(present)], atol=2)
    with pytest.raises(DataError, match=r"cut\.mp4"):
        read(videos, path, 0, 30)


def damaged_video(path: Path, *, at: int, damage: bytes) -> Decoded:
    """40 frames with a key frame every 10; what the file held before the bytes from `at` of frame 15 were replaced."""
    write_video(path, range(40), options={"g": "10", "bf": "0"}, picture=moving_picture)
    whole = decode_all(path)
    with av.open(str(path)) as container:
        entry = container.streams.video[0].index_entries[15]
    data = bytearray(path.read_bytes())
    data[entry.pos + at : entry.pos + at + len(damage)] = damage
    path.write_bytes(data)
    return whole


@pytest.mark.parametrize(
    ("backend", "at", "damage"),
    [
        pytest.param("pyav", 20, bytes(20), id="pyav-in the picture"),
        pytest.param("pyav", 5, b"\xff" * 3, id="pyav-in the header"),
        pytest.param("torchcodec", 5, b"\xff" * 3, id="torchcodec-in the header"),
    ],
    indirect=["backend"],
)
def test_damage_names_file_episode_and_time_and_spares_the_rest(
    tmp_path: Path, videos: Videos, at: int, damage: bytes
) -> None:
    whole = damaged_video(tmp_path / "v.mp4", at=at, damage=damage)
    with pytest.raises(DataError, match=r"w: .*v\.mp4 damaged at 1\.\d000 s .*Download it again\."):
        whole.read(videos, range(40))
    with pytest.raises(DataError, match="damaged"):
        whole.read(videos, [17])  # is made of what is damaged
    for rest in (range(10), range(20, 40)):
        assert np.array_equal(whole.read(videos, rest), whole.frames[rest.start : rest.stop])


def test_few_videos_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: VideoBackend) -> None:
    monkeypatch.setattr(video, "OPEN_VIDEOS", 2)
    paths = [write_video(tmp_path / f"{number}.mp4", range(number, 30)) for number in range(4)]
    videos, expected = Videos(backend), greys(read(Videos(backend), paths[0], 9, 1))
    for number in (0, 1, 2, 3, 1, 0):
        assert greys(read(videos, paths[number], 9, 1)) == expected
        assert list(videos._tracks)[-1] == paths[number]
        assert len(videos._tracks) <= 2
    monkeypatch.setattr(video, "OPEN_BYTES", videos._track(paths[0]).nbytes)
    read(videos, paths[3], 9, 1)
    assert list(videos._tracks) == [paths[3]]


def test_a_copy_starts_with_nothing_open(path: Path, videos: Videos) -> None:
    frames = read(videos, path, 5, 3)
    copy: Videos = pickle.loads(pickle.dumps(videos))
    assert not copy._tracks
    assert np.array_equal(read(copy, path, 5, 3), frames)
    assert type(copy._track(path)) is type(videos._track(path))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_forked_process_does_not_disturb_the_reading_of_its_parent(path: Path, backend: VideoBackend) -> None:
    videos, expected = Videos(backend), read(Videos(backend), path, 0, 30)
    read(videos, path, 0, 3)
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def read_in_child() -> None:
        results.put(read(videos, path, 3, 20))

    child = context.Process(target=read_in_child)
    child.start()
    assert np.array_equal(results.get(timeout=60), expected[3:23])
    child.join(timeout=60)
    assert child.exitcode == 0
    assert np.array_equal(read(videos, path, 3, 27), expected[3:])


LOSSLESS = {"x265-params": f"lossless=1:{QUIET}"}


def levels(number: int) -> np.ndarray:
    """12 bits of depth, 64 x 64."""
    return np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)[:, ::-1] // 2 + number


def depth(path: Path, numbers: Sequence[int], decode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return Videos().depth(path, np.array(numbers) / FPS, fps=FPS, size=(64, 64), decode=decode, where="w")


def test_depth_comes_as_16_bit_levels_of_grey(tmp_path: Path) -> None:
    path = tmp_path / "d.mp4"
    write_video(path, range(6), codec="libx265", options=LOSSLESS, picture=levels, formats=("gray12le", "gray12le"))
    metres = depth(path, [4, 1], lambda grey: (grey >> 4) / np.float32(1000))
    assert metres.dtype == np.float32
    np.testing.assert_array_equal(metres, np.stack([levels(4), levels(1)]) / np.float32(1000))


def test_depth_in_the_luma_of_a_colour_video_is_stretched_to_all_levels(tmp_path: Path) -> None:
    path = tmp_path / "d.mp4"
    write_video(
        path,
        range(3),
        codec="libx265",
        options=LOSSLESS,
        picture=lambda number: levels(number) * 16,
        formats=("gray16le", "yuv420p12le"),
    )
    grey = depth(path, [2], lambda grey: grey.astype(np.float32))
    np.testing.assert_allclose(grey[0], levels(2) * 16, atol=24)
