"""The formats on recordings of real robots and on files that LeRobot itself wrote; skipped where these are not here."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.formats.files import decode
from vla import registry
from vla.columns import Columns
from vla.errors import DataError
from vla.folder import Folder
from vla.formats import Dataset

SHARED = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the reference datasets are not on this machine")
WRITTEN_TASKS = {"pick up the red block", "push the block to the left", "open the drawer"}


@dataclass(frozen=True)
class Reference:
    """What is known about a dataset."""

    format: str
    episodes: int
    views: dict[str, tuple[int, int]]
    dims: tuple[int, int]
    fps: float
    first: tuple[int, int, str]
    """Number, length and instruction of the first episode that is present."""
    blocks: list[int]
    """Where the first blocks of that episode begin."""
    file: str = "data/chunk-000/episode_000000.parquet"
    video: str | None = None


REFERENCES = {
    "bridge_v21_images": Reference(
        format="lerobot_v21",
        episodes=25,
        views={"image_0": (64, 64), "image_1": (64, 64), "image_2": (64, 64)},
        dims=(7, 7),
        fps=5,
        first=(0, 10, "put cup from counter or drying rack into sink"),
        blocks=[0],
    ),
    "g1_v21_video": Reference(
        format="lerobot_v21",
        episodes=100,
        views={"cam_high": (480, 640)},
        dims=(26, 26),
        fps=30,
        first=(4, 357, "Pick up the yellow bottle on the table."),
        blocks=[0, 2, 4],
        file="data/chunk-000/episode_000004.parquet",
        video="videos/chunk-000/observation.images.cam_high/episode_000004.mp4",
    ),
    "gr1_v20_video": Reference(
        format="lerobot_v20",
        episodes=5,
        views={"ego_view": (256, 256)},
        dims=(44, 44),
        fps=20,
        first=(0, 416, "pick the pear from the counter and place it in the plate"),
        blocks=[0, 250],
        video="videos/chunk-000/observation.images.ego_view/episode_000000.mp4",
    ),
    "written_v21_video_033": Reference(
        format="lerobot_v21",
        episodes=50,
        views={"cam": (96, 96)},
        dims=(8, 7),
        fps=20,
        first=(0, 200, "pick up the red block"),
        blocks=[0, 2, 4],
        video="videos/chunk-000/observation.images.cam/episode_000000.mp4",
    ),
    **{
        name: Reference(
            format="lerobot_v30",
            episodes=50,
            views={"cam": (96, 96)},
            dims=(8, 7),
            fps=20,
            first=(0, 200, "pick up the red block"),
            blocks=[0, 2, 4],
            file="data/chunk-000/file-000.parquet",
            video="videos/observation.images.cam/chunk-000/file-000.mp4",
        )
        for name in ("written_v30_video_044", "written_v30_video_061")
    },
}


@cache
def opened(name: str) -> Dataset:
    """The dataset with the columns that are suggested for it."""
    module = registry.find("formats", REFERENCES[name].format)
    dataset: Dataset = module.open_dataset(Folder(SHARED / name), module.suggest_columns(SHARED / name), name=name)
    return dataset


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_dataset_is_recognised_and_described(name: str) -> None:
    reference, dataset = REFERENCES[name], opened(name)
    recognised = [
        each for each in registry.names("formats") if registry.find("formats", each).recognises(SHARED / name)
    ]
    assert recognised == [reference.format]
    assert dataset.schema.views == reference.views
    assert (dataset.schema.state_dim, dataset.schema.action_dim) == reference.dims
    assert dataset.schema.fps == reference.fps
    table = dataset.episodes()
    number, length, instruction = reference.first
    row = table.filter(table["episode_id"].to_numpy() == number).to_pylist()[0]
    assert len(table) == dataset.claims().episodes == reference.episodes
    assert (row["length"], row["supervised"], row["instruction"]) == (length, length, instruction)
    files = [path.as_posix() for path in dataset.episode_files(number)]
    assert files == [each for each in (reference.file, reference.video) if each]
    assert dataset.block_starts(number)[:3].tolist() == reference.blocks


@pytest.mark.parametrize("name", REFERENCES)
def test_numbers_are_those_of_a_plain_read(name: str) -> None:
    reference, dataset = REFERENCES[name], opened(name)
    number, length, _ = reference.first
    rows = pq.read_table(SHARED / name / reference.file).slice(0, length)
    steps = dataset.steps(number)
    np.testing.assert_array_equal(steps.state_TS, np.float32(rows["observation.state"].to_pylist()))
    np.testing.assert_array_equal(steps.actions_TA, np.float32(rows["action"].to_pylist()))
    np.testing.assert_array_equal(steps.timestamp_T, rows["timestamp"].to_pylist())
    ranges = dataset.recorded_ranges(number)
    assert set(ranges) == (set() if reference.format == "lerobot_v20" else {"state", "actions"})
    for key, values in (("state", steps.state_TS), ("actions", steps.actions_TA)):
        if key in ranges:
            np.testing.assert_allclose(ranges[key], [values.min(axis=0), values.max(axis=0)], rtol=1e-6)


@pytest.mark.parametrize("name", [name for name, each in REFERENCES.items() if each.video])
def test_frames_are_those_of_a_plain_decode(name: str) -> None:
    reference, dataset = REFERENCES[name], opened(name)
    number, length, _ = reference.first
    view = next(iter(reference.views))
    wanted = np.array([length - 1, 0, length // 2, 1, length // 2])
    expected = decode(SHARED / name / str(reference.video), frames=length)
    np.testing.assert_array_equal(dataset.images(number, view, wanted), expected[wanted])
    np.testing.assert_array_equal(dataset.images(number, view, np.arange(20, 40)), expected[20:40])
    assert dataset.frame_count(number, view) in (None, length)


def test_frames_of_an_episode_within_a_shared_file_are_those_of_a_plain_decode() -> None:
    expected = decode(SHARED / "written_v30_video_061/videos/observation.images.cam/chunk-000/file-000.mp4", frames=800)
    np.testing.assert_array_equal(opened("written_v30_video_061").images(3, "cam"), expected[600:])


@pytest.mark.parametrize("part", ["steps", "images"])
def test_an_episode_whose_files_are_missing_says_so(part: str) -> None:
    dataset = opened("g1_v21_video")
    with pytest.raises(DataError, match=r"Episode 3: .*episode_000003\.(parquet|mp4): expected a file, found none"):
        dataset.steps(3) if part == "steps" else dataset.images(3, "cam_high")
    assert Path("data/chunk-000/episode_000003.parquet") in dataset.episode_files(3)


def test_the_first_row_says_which_of_several_tasks_an_episode_is_about() -> None:
    assert set(opened("gr1_v20_video").episodes()["instruction"].to_pylist()) == {
        f"pick the {thing} from the counter and place it in the plate"
        for thing in ("pear", "sweet potato", "meat", "salt", "cupcake")
    }
    columns = opened("gr1_v20_video")._columns.model_copy(update={"instruction": None})
    module = registry.find("formats", "lerobot_v20")
    with pytest.raises(DataError, match=r"episode 0: expected one task.*'valid'.*annotation\.human\.action\.task_desc"):
        module.open_dataset(Folder(SHARED / "gr1_v20_video"), columns, name="gr1").episodes()


@pytest.mark.parametrize("episode", [0, 13, 49])
def test_all_writers_of_the_same_data_are_read_alike(episode: int) -> None:
    old, first, second = (opened(f"written_{name}") for name in ("v21_video_033", "v30_video_044", "v30_video_061"))
    assert old.episodes().equals(first.episodes())
    assert first.episodes().equals(second.episodes())
    assert set(first.episodes()["instruction"].to_pylist()) == WRITTEN_TASKS
    for dataset in (first, second):
        np.testing.assert_array_equal(dataset.steps(episode).state_TS, old.steps(episode).state_TS)
        np.testing.assert_array_equal(dataset.steps(episode).actions_TA, old.steps(episode).actions_TA)
    steps = np.array([0, 99, 199])
    frames, again, before = (dataset.images(episode, "cam", steps) for dataset in (first, second, old))
    np.testing.assert_array_equal(again, frames)
    assert np.abs(np.int16(before) - frames).mean() < 2.5, "two lossy encodings of the same frames"


@pytest.mark.parametrize("name", ["written_v30_video_044", "written_v30_video_061"])
def test_frames_have_the_statistics_that_lerobot_stored_for_their_episode(name: str) -> None:
    stored = pq.read_table(SHARED / name / "meta/episodes", columns=["stats/observation.images.cam/mean"])
    for episode in (0, 49):
        mean = np.array(stored[0][episode].as_py()).ravel()
        frames = opened(name).images(episode, "cam")
        np.testing.assert_allclose(frames.mean(axis=(0, 1, 2)) / 255, mean, atol=0.01)


def test_some_of_the_cameras_can_be_chosen_and_named() -> None:
    columns = Columns(state="observation.state", actions="action", views={"b": "observation.images.image_1"})
    module = registry.find("formats", "lerobot_v21")
    dataset = module.open_dataset(Folder(SHARED / "bridge_v21_images"), columns, name="bridge")
    assert dataset.schema.views == {"b": (64, 64)}
    np.testing.assert_array_equal(dataset.images(7, "b"), opened("bridge_v21_images").images(7, "image_1"))
