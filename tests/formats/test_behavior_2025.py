"""BEHAVIOR-1K's 2025-challenge-demos: what it has that other LeRobot datasets have not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.formats.files import encode, write_json, write_lines
from tests.formats.miniature_behavior import COLUMNS, DEPTH, STATE, write_behavior
from vla.data.selection import Selection, select
from vla.errors import ConfigError, DataError
from vla.folder import Folder
from vla.formats import Annotation, behavior_2025, lerobot_v21
from vla.formats.behavior_2025 import Behavior2025, open_dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_behavior(tmp_path)
    return tmp_path


def opened(root: Path, **changes: Any) -> Behavior2025:
    return open_dataset(Folder(root), COLUMNS.model_copy(update=changes), name="test")


def annotate(root: Path, *skills: dict[str, Any]) -> None:
    write_json(root / "annotations/task-0001/episode_00010020.json", {"skill_annotation": list(skills)})


def test_episodes_keep_their_sparse_numbers_and_lie_by_task(root: Path) -> None:
    dataset = opened(root)
    assert dataset.episodes()["episode_id"].to_pylist() == [10, 30, 10020]
    assert dataset.episode_files(10020) == [
        Path("data/task-0001/episode_00010020.parquet"),
        Path("videos/task-0001/observation.images.rgb.head/episode_00010020.mp4"),
        Path("videos/task-0001/observation.images.rgb.left_wrist/episode_00010020.mp4"),
        Path("videos/task-0001/observation.images.depth.head/episode_00010020.mp4"),
    ]


def test_only_the_chosen_cameras_are_needed(root: Path) -> None:
    files = opened(root, views={"head": "observation.images.rgb.head"}, depth={}).episode_files(10)
    assert [path.parts[-2] for path in files] == ["task-0000", "observation.images.rgb.head"]


def test_timestamps_keep_their_precision(root: Path) -> None:
    times = opened(root).steps(10).timestamp_T
    assert times.tolist() == [step / 30 for step in range(9)]


def test_the_challenge_state_is_suggested_with_the_colour_cameras(root: Path) -> None:
    columns = behavior_2025.suggest_columns(root)
    assert columns.state == STATE
    assert columns.views == {
        "head": "observation.images.rgb.head",
        "left_wrist": "observation.images.rgb.left_wrist",
    }
    assert opened(root).schema.state_dim == 23
    assert opened(root).schema.state_columns == {"observation.state": 256}


def test_dimensions_without_names_are_numbered(root: Path) -> None:
    names = opened(root).schema.state_names
    assert names[:3] == ("observation.state_253", "observation.state_254", "observation.state_255")
    assert names[-1] == "sum(observation.state_232+observation.state_233)"


@pytest.mark.parametrize(
    "part",
    ["observation.state", "observation.state[0:113]", "observation.state[139:140]", "sum(observation.state[130:131])"],
)
@pytest.mark.parametrize("key", ["state", "actions"])
def test_joint_efforts_are_denied(root: Path, key: str, part: str) -> None:
    with pytest.raises(ConfigError, match=r"joint efforts, which were recorded wrongly and lie at \[112:140\]"):
        opened(root, **{key: part})


def test_what_lies_beside_the_joint_efforts_can_be_used(root: Path) -> None:
    raw = np.array(pq.read_table(root / "data/task-0000/episode_00000010.parquet")["observation.state"].to_pylist())
    steps = opened(root, state=("observation.state[0:112]", "observation.state[140:256]")).steps(10)
    np.testing.assert_array_equal(steps.state_TS, np.delete(raw, np.s_[112:140], axis=1))


def test_the_column_of_varying_length_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"observation\.task_info: expected vectors of one length"):
        opened(root, state="observation.task_info")


def test_ranges_are_recorded_for_what_has_no_sums(root: Path) -> None:
    dataset = opened(root)
    assert set(dataset.recorded_ranges(30)) == {"actions"}
    parts = opened(root, state=STATE[:4])
    low, high = parts.recorded_ranges(30)["state"]
    state = parts.steps(30).state_TS
    np.testing.assert_allclose([low, high], [state.min(axis=0), state.max(axis=0)])


def test_episodes_may_name_a_task_by_its_short_name(root: Path) -> None:
    path = root / "meta/episodes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    names = {"open the drawer": "opening_drawers", "close the faucet": "closing_faucets"}
    write_lines(path, [{**line, "tasks": [names[line["tasks"][0]]]} for line in lines])
    texts = opened(root).episodes()["instruction"].to_pylist()
    assert texts == ["open the drawer", "open the drawer", "close the faucet"]


def test_depth_comes_back_in_metres(root: Path) -> None:
    depth = opened(root).depth(10, "front")
    assert (depth.shape, depth.dtype) == ((9, *DEPTH.shape), np.float32)
    # 10-bit video is at most 51 of the 16384 codes off: 5.7 cm at 10 m.
    np.testing.assert_allclose(depth[3], DEPTH, atol=0.057)
    np.testing.assert_allclose(depth[:, DEPTH < 1], [DEPTH[DEPTH < 1]] * 9, atol=0.015)
    np.testing.assert_array_equal(opened(root).depth(10, "front", np.array([8, 2])), depth[[8, 2]])
    assert opened(root).schema.depth == {"front": DEPTH.shape}


def test_the_codes_of_depth_are_those_of_2025() -> None:
    codes = np.array([[0, 1, 8192, 16383, 16384]], dtype=np.uint16)
    middle = 3.5 * (13.5 / 3.5) ** (8192 / 16383) - 3.5
    step = 3.5 * (13.5 / 3.5) ** (1 / 16383) - 3.5
    np.testing.assert_allclose(behavior_2025.DEPTH(codes), [[0, step, middle, 10, 10]], rtol=1e-5)


def test_depth_is_no_view_and_a_view_no_depth(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"depth\.head: expected colours, found depth\. Name it in data\.columns\.depth"
    ):
        opened(root, views={"front": "observation.images.depth.head"})
    with pytest.raises(DataError, match=r"rgb\.head: expected depth, which is a video with is_depth_map or floats"):
        opened(root, depth={"front": "observation.images.rgb.head"})
    with pytest.raises(DataError, match=r"expected a view with depth, found 'wrist'"):
        opened(root).depth(10, "wrist")


def test_segmentation_can_be_a_view(root: Path) -> None:
    colour = root / "videos/task-0000/observation.images.rgb.head/episode_00000010.mp4"
    palette = root / "videos/task-0000/observation.images.seg_instance_id.head/episode_00000010.mp4"
    palette.parent.mkdir()
    palette.write_bytes(colour.read_bytes())
    dataset = opened(root, views={"objects": "observation.images.seg_instance_id.head"})
    np.testing.assert_array_equal(dataset.images(10, "objects"), opened(root).images(10, "front"))


def describe(root: Path, **values: Any) -> None:
    """What the dataset says about episode 10."""
    write_json(root / "meta/episodes/task-0000/episode_00000010.json", values)


def segmented(root: Path) -> Behavior2025:
    return opened(root, views={"objects": "observation.images.seg_instance_id.head"}, depth={})


def test_instances_come_back_from_compressed_colours(root: Path) -> None:
    ids = [0, 1, 7, 40, 300]
    shown = np.array([[0, 40, 7], [300, 1, 40]]).repeat(16, axis=0).repeat(16, axis=1)
    # The palette of five: 2 x 2 x 2 colours, of which the first five are given in order.
    low, high = 16, 240
    colours = {0: (16, low, low), 1: (16, low, high), 7: (16, high, low), 40: (16, high, high), 300: (235, low, low)}
    frame = np.array([colours[number] for number in shown.ravel()], dtype=np.uint8).reshape(*shown.shape, 3)
    path = root / "videos/task-0000/observation.images.seg_instance_id.head/episode_00000010.mp4"
    path.parent.mkdir()
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.images.seg_instance_id.head"]["shape"] = frame.shape
    write_json(root / "meta/info.json", info)
    frames = np.stack([frame] * 8 + [frame[:, ::-1]])
    encode(path, frames, "libx264", pixels="yuv420p", given="rgb24", fps=30, options={"crf": "28"})
    describe(root, **{"robot_r1::robot_r1:zed_link:Camera:0::unique_ins_ids": ids})
    dataset = segmented(root)
    assert set(map(tuple, dataset.images(10, "objects").reshape(-1, 3))) - set(colours.values())
    found = dataset.instance_ids(10, "objects", np.array([8, 0]))
    assert (found.shape, found.dtype) == ((2, 32, 48), np.int64)
    inside = np.isin(np.arange(48) % 16, range(2, 14))[None, :] & np.isin(np.arange(32) % 16, range(2, 14))[:, None]
    np.testing.assert_array_equal(found[:, inside], np.stack([shown[:, ::-1], shown])[:, inside])
    assert dataset.instance_ids(10, "objects", np.array([], dtype=np.int64)).shape == (0, 32, 48)


def test_instances_have_the_paths_of_the_scene(root: Path) -> None:
    describe(root, ins_id_mapping=json.dumps({"1": "unlabelled", "300": "/World/scene_0/radio_89/base_link"}))
    assert segmented(root).instances(10) == {1: "unlabelled", 300: "/World/scene_0/radio_89/base_link"}


def test_instances_that_are_not_described_are_an_error(root: Path) -> None:
    dataset = segmented(root)
    with pytest.raises(DataError, match=r"episode_00000010\.json: expected the description of episode 10, found none"):
        dataset.instance_ids(10, "objects")
    describe(root, **{"robot_r1::robot_r1:zed_link:Camera:0::unique_ins_ids": "5"})
    with pytest.raises(DataError, match=r"expected the ids :zed_link:Camera:0::unique_ins_ids, found 5\."):
        dataset.instance_ids(10, "objects")
    with pytest.raises(DataError, match="expected ins_id_mapping, JSON of ids and paths, found None"):
        dataset.instances(10)
    with pytest.raises(DataError, match=r"wrist: expected one of .*seg_instance_id\.head.* found .*rgb\.left_wrist"):
        opened(root).instance_ids(10, "wrist")


def test_episodes_have_the_short_names_of_their_tasks(root: Path) -> None:
    assert opened(root).task_names() == {10: "opening_drawers", 30: "opening_drawers", 10020: "closing_faucets"}


def test_episodes_are_selected_by_the_short_name_of_their_task(root: Path) -> None:
    selected = select(Selection(tasks=("closing_faucets",)), opened(root), where="here")
    assert selected.table["episode_id"].to_pylist() == [10020]
    assert selected.left_out == {"not in data.select.tasks": 2}


def test_annotations_say_what_is_done_when(root: Path) -> None:
    assert opened(root).annotations(10020) == []
    assert opened(root).annotated() == []
    annotate(
        root,
        {"skill_description": ["move to"], "frame_duration": [0, 4], "object_id": [["radio_89"]]},
        {"skill_description": ["press", "hold"], "frame_duration": [[4, 5], [6, 9]]},
    )
    assert opened(root).annotations(10020) == [
        Annotation(0, 4, "move to"),
        Annotation(4, 5, "press, hold"),
        Annotation(6, 9, "press, hold"),
    ]
    write_json(root / "annotations/task-0001/episode_00010099.json", {})
    assert opened(root).annotated() == [10020]
    with pytest.raises(DataError, match="expected one of 3 episodes, found 11"):
        opened(root).annotations(11)


@pytest.mark.parametrize(
    "skill",
    [
        {"skill_description": ["move to"]},
        {"skill_description": ["move to"], "frame_duration": [1]},
        {"skill_description": [5], "frame_duration": [1, 2]},
        {"skill_description": ["move to"], "frame_duration": ["a", "b"]},
        {"skill_description": ["move to"], "frame_duration": 5},
    ],
)
def test_a_damaged_annotation_names_its_file(root: Path, skill: dict[str, Any]) -> None:
    annotate(root, skill)
    with pytest.raises(DataError, match=r"episode_00010020\.json: episode 10020: expected skills"):
        opened(root).annotations(10020)


def test_it_is_not_taken_for_another_v21_dataset(root: Path) -> None:
    assert behavior_2025.recognises(root)
    assert not lerobot_v21.recognises(root)
