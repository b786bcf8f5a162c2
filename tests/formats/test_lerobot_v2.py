"""LeRobot v2.0 and v2.1: the variations that other writers leave, and damage that must not go unnoticed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.formats.files import change_feature, change_info, change_lines, rewrite, spoil_row_group, write_video
from tests.formats.miniature_lerobot import COLUMNS, with_column, write_lerobot_v2
from vla.columns import Columns
from vla.errors import ConfigError, DataError
from vla.folder import FileStamp, Folder
from vla.formats.lerobot_v21 import LeRobotV21, open_dataset, recognises, suggest_columns

DATA = "data/chunk-000/episode_000001.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_lerobot_v2(tmp_path, "v2.1", "image")
    return tmp_path


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    write_lerobot_v2(tmp_path, "v2.1", "video")
    return tmp_path


def opened(root: Path, columns: Columns = COLUMNS, **changes: Any) -> LeRobotV21:
    return open_dataset(Folder(root), columns.model_copy(update=changes), name="test")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b", "c", "d"], ("a", "b", "c", "d")),
        ([["a", "b", "c", "d"]], ("a", "b", "c", "d")),
        ({"motors": ["a", "b", "c", "d"]}, ("a", "b", "c", "d")),
        ({"left": ["a", "b"], "right": ["c", "d"]}, ("a", "b", "c", "d")),
        ({"b": 1, "a": 0, "d": 3, "c": 2}, ("a", "b", "c", "d")),
        (None, ("action_0", "action_1", "action_2", "action_3")),
        (..., ("action_0", "action_1", "action_2", "action_3")),
        (["too", "few"], ("action_0", "action_1", "action_2", "action_3")),
    ],
)
def test_dimensions_are_named_by_the_dataset_or_numbered(root: Path, names: Any, expected: tuple[str, ...]) -> None:
    change_feature(root, "action", names=names)
    assert opened(root).schema.action_names == expected


@pytest.mark.parametrize("shape", [..., [], [1]])
def test_a_column_of_single_numbers_is_one_dimension(root: Path, shape: Any) -> None:
    with_column(root, "gripper", lambda number: number + 0.5, "float32")
    change_feature(root, "gripper", shape=shape)
    dataset = opened(root, actions=("action[0:3]", "gripper"))
    assert dataset.schema.action_names == ("action_0", "action_1", "action_2", "gripper_0")
    np.testing.assert_array_equal(dataset.steps(2).actions_TA[:, 3], [2.5] * 6)


def test_the_number_of_names_stands_in_for_a_missing_shape(root: Path) -> None:
    change_feature(root, "action", shape=..., names=["a", "b", "c", "d"])
    assert opened(root).steps(0).actions_TA.shape == (9, 4)


def test_parts_and_sums_of_columns_make_up_the_state(root: Path) -> None:
    whole = opened(root).steps(1).state_TS
    dataset = opened(root, state=("observation.state[2:4]", "sum(observation.state[0:2])"))
    np.testing.assert_array_equal(dataset.steps(1).state_TS[:, :2], whole[:, 2:])
    np.testing.assert_array_equal(dataset.steps(1).state_TS[:, 2], whole[:, 0] + whole[:, 1])


def test_ranges_are_recorded_for_parts_but_not_for_sums(root: Path) -> None:
    dataset = opened(root, state=("observation.state[2:4]", "action[0:1]"), actions=("sum(action[0:2])",))
    ranges, steps = dataset.recorded_ranges(1), dataset.steps(1)
    assert set(ranges) == {"state"}
    np.testing.assert_allclose(ranges["state"], [steps.state_TS.min(axis=0), steps.state_TS.max(axis=0)])


def test_ranges_of_other_dimensions_are_an_error_and_none_are_none(root: Path) -> None:
    stats = {"observation.state": {"min": [0, 0], "max": [1, 1]}, "action": {"min": [0] * 4, "max": [1] * 4}}
    change_lines(root / "meta/episodes_stats.jsonl", lambda line: {**line, "stats": stats})
    with pytest.raises(DataError, match=r"stats\.jsonl: episode 1: state: expected the range of 4 dim.*found 2 min"):
        opened(root).recorded_ranges(1)
    change_lines(
        root / "meta/episodes_stats.jsonl", lambda line: {**line, "stats": {"action": {"min": ["a"], "max": [1]}}}
    )
    with pytest.raises(DataError, match=r"stats\.jsonl: episode 0: expected lists of numbers min and max"):
        opened(root).recorded_ranges(1)
    assert Path("meta/episodes_stats.jsonl") in opened(root).metadata_files()
    (root / "meta/episodes_stats.jsonl").unlink()
    assert opened(root).recorded_ranges(1) == {}
    assert Path("meta/episodes_stats.jsonl") not in opened(root).metadata_files()


def test_images_may_be_declared_channels_first_and_fps_as_a_float(root: Path) -> None:
    change_feature(root, "observation.images.front", shape=[3, 8, 10])
    change_info(root, fps=20.0)
    assert opened(root).schema.views["front"] == (8, 10)


def test_the_size_of_video_may_be_declared_with_its_encoding(videos: Path) -> None:
    change_feature(videos, "observation.images.front", shape=..., video_info={"video.height": 8, "video.width": 10})
    assert opened(videos).schema.views["front"] == (8, 10)
    change_feature(videos, "observation.images.front", video_info={})
    with pytest.raises(DataError, match=r"front: expected a camera, found video of shape \[None, None, 3\]"):
        opened(videos)


def test_totals_may_be_missing(root: Path) -> None:
    change_info(root, total_episodes=..., total_frames=None, chunks_size=...)
    claims = opened(root).claims()
    assert (claims.episodes, claims.steps) == (None, None)
    assert len(opened(root).steps(2)) == 6


@pytest.mark.parametrize("fps", ["20", 0, -1, None, ..., True, math.inf, math.nan, 10**400])
def test_a_dataset_without_a_rate_is_an_error(root: Path, fps: Any) -> None:
    change_info(root, fps=fps)
    with pytest.raises(
        DataError, match=r"info\.json: (expected .*, found no fps|fps: expected a positive number, found)"
    ):
        opened(root)


def test_a_rate_in_the_feature_map_is_refused_where_the_dataset_has_another(root: Path) -> None:
    assert opened(root, fps=20.0).schema.fps == 20
    with pytest.raises(ConfigError, match=r"data\.columns\.fps: expected null, as .* says 20.0, found 10.0"):
        opened(root, fps=10.0)


def test_a_column_of_varying_length_can_be_there_but_not_be_used(root: Path) -> None:
    change_feature(root, "observation.task_info", dtype="float32", shape=[None], names=None)
    opened(root)
    with pytest.raises(DataError, match=r"task_info: expected vectors of one length, found rows of varying length"):
        opened(root, state="observation.task_info")


@pytest.mark.parametrize(
    "path",
    [
        "data/chunk-{chunk_index:03d}/episode_{episode_index:06d}.parquet",
        "data/chunk-{episode_chunk:03d}/episode_{file_index:06d}.parquet",
        "data/chunk-{episode_index:03d}/episode_{episode_index:06d}.parquet",  # wrong, but there is one such file
    ],
)
def test_files_are_found_by_the_template_or_by_their_name(root: Path, path: str) -> None:
    change_info(root, data_path=path)
    dataset = opened(root)
    assert dataset.episode_files(1) == [Path(DATA)]
    assert len(dataset.steps(1)) == 5


def test_videos_are_found_by_their_name_and_camera(videos: Path) -> None:
    change_info(videos, video_path="videos/part-{episode_index}/{video_key}/episode_{episode_index:06d}.mp4")
    found = [path.as_posix() for path in opened(videos).episode_files(2)]
    assert found[1:] == [f"videos/chunk-000/observation.images.{view}/episode_000002.mp4" for view in COLUMNS.views]


def test_files_are_looked_for_in_the_manifest_where_there_is_one(root: Path) -> None:
    change_info(root, data_path="data/chunk-{episode_index:03d}/episode_{episode_index:06d}.parquet")
    listed = {"meta/info.json", "meta/tasks.jsonl", "meta/episodes.jsonl", DATA}
    folder = Folder(root, {name: FileStamp((root / name).stat().st_size, None) for name in listed})
    dataset = open_dataset(folder, COLUMNS, name="test")
    assert len(dataset.steps(1)) == 5
    assert dataset.metadata_files() == [Path(name) for name in sorted(listed - {DATA})]
    with pytest.raises(DataError, match=r"Episode 2: .*chunk-002/episode_000002\.parquet: expected a file, found none"):
        dataset.steps(2)


def test_two_files_of_one_name_are_an_error_unless_the_template_chooses(root: Path) -> None:
    (root / "data/chunk-007").mkdir()
    (root / "data/chunk-007/episode_000001.parquet").write_bytes((root / DATA).read_bytes())
    assert opened(root).episode_files(1) == [Path(DATA)]
    change_info(root, data_path="data/chunk-{episode_index:03d}/episode_{episode_index:06d}.parquet")
    with pytest.raises(DataError, match=r"episode 1: expected one file episode_000001\.parquet, found data/chunk-000/"):
        opened(root).steps(1)


def test_a_file_with_other_rows_than_the_metadata_say_is_an_error(root: Path) -> None:
    rewrite(root / DATA, lambda table: pa.concat_tables([table, table]))
    with pytest.raises(
        DataError, match=r"000001\.parquet: episode 1: expected 5 rows as .*episodes\.jsonl says, found 10"
    ):
        opened(root).steps(1)
    rewrite(root / DATA, lambda table: table.slice(0, 4))
    with pytest.raises(DataError, match=r"Episode 1: .*000001\.parquet: expected at least 5 rows, found 4"):
        opened(root).images(1, "front", np.array([4]))


def test_a_file_of_another_episode_is_noticed(root: Path) -> None:
    other = pq.read_table(root / "data/chunk-000/episode_000002.parquet").slice(0, 5)
    rewrite(root / DATA, lambda table: other)
    with pytest.raises(DataError, match=r"000001\.parquet: episode 1: expected its rows at 0 to 5, found rows.*\[2\]"):
        opened(root).steps(1)


def test_an_episode_without_steps_is_an_error_when_it_is_read(root: Path) -> None:
    change_lines(
        root / "meta/episodes.jsonl",
        lambda line: {**line, "length": 0 if line["episode_index"] == 1 else line["length"]},
    )
    dataset = opened(root)
    assert len(dataset.steps(0)) == 9
    with pytest.raises(DataError, match="episode 1: expected steps, found none"):
        dataset.steps(1)


def test_steps_beyond_the_episode_are_refused(root: Path) -> None:
    for steps in ([5], [-1], [0, 9]):
        with pytest.raises(IndexError, match="episode 1 has 5 steps"):
            opened(root).images(1, "front", np.array(steps))


def test_images_are_decoded_in_the_row_groups_that_hold_them(root: Path) -> None:
    path = root / "data/chunk-000/episode_000000.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=4)
    dataset = opened(root)
    assert dataset.block_starts(0).tolist() == [0, 4, 8]
    spoil_row_group(path, 0)
    assert dataset.images(0, "front", np.array([5, 6])).shape == (2, 8, 10, 3)
    with pytest.raises(DataError, match=r"Episode 0: .*episode_000000\.parquet"):
        dataset.images(0, "front", np.array([3]))


def test_video_can_be_entered_at_its_key_frames(videos: Path) -> None:
    assert opened(videos).block_starts(0).tolist() == [0, 4, 8]
    assert opened(videos, views={}).block_starts(0).tolist() == [0]


def test_a_video_with_too_many_or_too_few_frames_is_told_by_its_count(videos: Path) -> None:
    path = videos / "videos/chunk-000/observation.images.front/episode_000001.mp4"
    write_video(path, np.zeros((7, 8, 10, 3), dtype=np.uint8))
    assert opened(videos).frame_count(1, "front") == 7
    write_video(path, np.zeros((4, 8, 10, 3), dtype=np.uint8))
    with pytest.raises(
        DataError, match=r"Episode 1, observation\.images\.front: expected a frame every .* at 0\.2000 s"
    ):
        opened(videos).images(1, "front")


def test_the_files_of_cameras_that_are_not_chosen_need_not_be_an_episodes(videos: Path) -> None:
    assert opened(videos).data_folders() == ("data", *(f"videos/**/{column}" for column in COLUMNS.views.values()))
    chosen = {"front": "observation.images.front"}
    assert opened(videos, views=chosen).data_folders() == ("data", "videos/**/observation.images.front")


def test_video_without_a_template_for_its_files_is_an_error(videos: Path) -> None:
    change_info(videos, video_path=None)
    with pytest.raises(DataError, match=r"expected video_path for the video observation\.images\.front, found none"):
        opened(videos).images(0, "front")


def test_images_need_no_template_for_video(root: Path) -> None:
    change_info(root, video_path=None)
    assert opened(root).images(0, "front").shape == (9, 8, 10, 3)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("episodes", "{", r"episodes\.jsonl, line 4: expected JSON"),
        ("episodes", "[1]", r"episodes\.jsonl, line 4: expected episode_index, length, found \[1\]"),
        ("episodes", '{"episode_index": 3}', r"line 4: expected episode_index, length, found episode_index"),
        ("episodes", '{"episode_index": 3, "length": 1.5}', r"episodes\.jsonl: expected whole numbers and texts"),
        ("episodes", '{"episode_index": null, "length": 1}', r"episodes\.jsonl: expected whole numbers and texts"),
        ("episodes", '{"episode_index": 3, "length": 1, "tasks": [5]}', r"jsonl: expected whole numbers and texts"),
        ("episodes", '{"episode_index": 1, "length": 5}', r"jsonl: expected each episode once, found 1 again"),
        ("tasks", '{"task": "x"}', r"tasks\.jsonl, line 3: expected task_index, task, found task"),
    ],
)
def test_damaged_metadata_are_named_by_file_and_line(root: Path, name: str, line: str, message: str) -> None:
    with (root / f"meta/{name}.jsonl").open("a") as lines:
        lines.write(f"{line}\n")
    with pytest.raises(DataError, match=message):
        opened(root)


def test_episodes_are_listed_by_their_number_whatever_the_order_of_the_file(root: Path) -> None:
    path = root / "meta/episodes.jsonl"
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n\n")
    table = opened(root).episodes()
    assert table["episode_id"].to_pylist() == [0, 1, 2]
    assert table["length"].to_pylist() == [9, 5, 6]
    assert table["instruction"].to_pylist() == ["open the drawer", "close the faucet", "open the drawer"]


def test_views_are_suggested_by_the_shortest_names_that_differ(videos: Path) -> None:
    camera = {"dtype": "image", "shape": [8, 10, 3], "names": None}
    added = ("left.rgb", "right.rgb", "left.depth", "depth_wrist", "seg.left")
    features = {**json.loads((videos / "meta/info.json").read_text())["features"], **dict.fromkeys(added, camera)}
    features["flat"] = {"dtype": "image", "shape": [8, 10, 3], "info": {"is_depth_map": True}}
    change_info(videos, features=features)
    assert suggest_columns(videos).views == {
        "images_front": "observation.images.front",
        "images_wrist": "observation.images.wrist",
        "left_rgb": "left.rgb",
        "right_rgb": "right.rgb",
    }


def test_cameras_without_videos_are_not_suggested(videos: Path) -> None:
    change_feature(videos, "observation.images.old", dtype="video", shape=[8, 10, 3])
    assert suggest_columns(videos).views == COLUMNS.views


def test_actions_that_lie_in_several_columns_are_suggested_together(root: Path) -> None:
    features = json.loads((root / "meta/info.json").read_text())["features"]
    arm = features.pop("action")
    change_info(root, features={**features, "action.arm": arm, "action.hand": arm})
    assert suggest_columns(root).actions == ("action.arm", "action.hand")


def test_a_folder_of_another_version_is_not_recognised(root: Path) -> None:
    assert recognises(root)
    change_info(root, codebase_version="v2.0")
    assert not recognises(root)
    with pytest.raises(DataError, match=r"expected codebase_version v2\.1x, found v2\.0"):
        opened(root)
