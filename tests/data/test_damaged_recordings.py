"""Real recordings in every format: sound as they are, and with damage that is named."""

import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from damages import column, cut, flipped, in_row, nan_in_row, validated

SHARED = Path(__file__).parents[3] / "shared/data"
REAL: dict[str, dict[str, Any]] = {
    "bridge_v21_images": {
        "format": "lerobot_v21",
        "columns": {
            "state": "observation.state",
            "actions": "action",
            "views": {"over": "observation.images.image_0", "side": "observation.images.image_1"},
        },
    },
    "gr1_v20_video": {
        "format": "lerobot_v20",
        "columns": {
            "state": "observation.state",
            "actions": "action",
            "views": {"ego": "observation.images.ego_view"},
            "instruction": "annotation.human.action.task_description",
        },
    },
    "g1_v21_video": {
        "format": "lerobot_v21",
        "select": {"present": True},
        "columns": {
            "state": "observation.state",
            "actions": "action",
            "views": {"high": "observation.images.cam_high"},
        },
    },
    "bridge_stepwise": {
        "format": "stepwise",
        "columns": {
            "state": "state",
            "actions": "action",
            "views": {"main": "image_1", "wrist": "image_2"},
            "instruction": "prompt",
            "fps": 5,
        },
    },
    **{
        name: {
            "format": f"lerobot_{name[8:11]}",
            "columns": {
                "state": "observation.state",
                "actions": "action",
                "views": {"cam": "observation.images.cam"},
            },
        }
        for name in ("written_v21_video_033", "written_v30_video_044", "written_v30_video_061")
    },
}
WARNINGS = {
    "bridge_v21_images": ["action_saturation"],
    "gr1_v20_video": ["constant_dimension", "constant_dimension", "outlier"],
    "g1_v21_video": ["selection", "action_saturation"],
    "bridge_stepwise": ["action_saturation"],
}
EPISODES = {"bridge_v21_images": 25, "gr1_v20_video": 5, "g1_v21_video": 6, "bridge_stepwise": 25}


def real(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not here")
    return SHARED / name


def test_all_shared_datasets_are_tried():
    folders = {path.name for path in real("").iterdir() if path.is_dir()}
    assert folders == REAL.keys()


@pytest.mark.parametrize("name", REAL)
def test_real_recordings_are_sound_but_for_known_warnings(name, tmp_path):
    frames = "all" if name in ("bridge_v21_images", "bridge_stepwise", "gr1_v20_video") else "ends"
    outcome = validated(real(name), tmp_path, REAL[name], on_bad_episode="stop", frames=frames)
    assert outcome.stopped == ""
    assert [finding["check"] for finding in outcome.record["findings"]] == WARNINGS.get(name, [])
    assert outcome.record["episodes"]["total"] == EPISODES.get(name, 50)
    assert (tmp_path / "report").read_text().count("data:image/png") > 0


GR1_FILM = "videos/chunk-000/observation.images.ego_view/episode_000001.mp4"
GR1_ROWS = "data/chunk-000/episode_000001.parquet"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flipped(GR1_FILM, 0.5), f"decodable: view ego: .*{GR1_FILM}"),
        (cut(GR1_FILM, 0.9), f"decodable: view ego: .*{GR1_FILM}"),
        (lambda root: shutil.copy(root / GR1_FILM.replace("1.mp4", "3.mp4"), root / GR1_FILM), "frames: view ego: "),
        (flipped(GR1_ROWS, 0.999, 8), f"readable: .*{GR1_ROWS}"),
        (
            column("timestamp", lambda times: [time + (step > 100) for step, time in enumerate(times)], rows=GR1_ROWS),
            r"timestamps: step 101: expected a timestamp 0.05 s after .*, found a gap of 1.05 s \(1 of ",
        ),
        (column("observation.state", nan_in_row(77, 5), rows=GR1_ROWS), "finite: step 77: .* state motor_5, found nan"),
    ],
)
def test_damage_to_a_real_recording_is_found(damage, message, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(real("gr1_v20_video"), root)
    damage(root)
    data = REAL["gr1_v20_video"] | {"select": {"episodes": [1, 2, 3]}}
    outcome = validated(root, tmp_path / "out", data)
    assert outcome.quarantined == ["episode 1"], outcome.lines
    assert re.match(f"episode 1: {message}", outcome.lines[0]), outcome.lines


PART = "part-00001.parquet"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (column("state", nan_in_row(13, 2), rows=PART), "finite: step 3: expected a finite number for state state_2"),
        (column("image_2", in_row(12, b"none"), rows=PART), "decodable: view wrist: .*"),
        (column("prompt", lambda texts: [*texts[:10], *[" "] * 10, *texts[20:]], rows=PART), "instruction: "),
        (
            column("is_terminal", in_row(14, True), rows=PART),
            "after_terminal: step 5: expected the end after a terminal step, found 5 of 10 steps more",
        ),
    ],
)
def test_damage_to_stepwise_data_is_found(damage, message, tmp_path):
    """The second episode of the second file."""
    root = tmp_path / "root"
    shutil.copytree(real("bridge_stepwise"), root)
    first = sum(pq.read_table(root / "part-00000.parquet")["is_first"].to_pylist())
    damage(root)
    outcome = validated(root, tmp_path / "out", REAL["bridge_stepwise"])
    assert re.match(f"episode {first + 1}: {message}", outcome.lines[0]), outcome.lines
    assert outcome.quarantined == ([] if "terminal" in message else [f"episode {first + 1}"])
