"""Clips of LeRobot v3.0: episodes that share a video file, and tables that place them wrongly."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.formats.files import replace, rewrite
from tests.formats.miniature_lerobot import COLUMNS, write_lerobot_v30_video
from vla.columns import Columns
from vla.errors import DataError
from vla.folder import Folder
from vla.formats.lerobot_v30 import LeRobotV30, open_dataset

EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def opened(root: Path, columns: Columns = COLUMNS) -> LeRobotV30:
    return open_dataset(Folder(root), columns, name="test")


def test_video_of_a_shared_file_is_entered_at_the_key_frames_of_the_episode(tmp_path: Path) -> None:
    write_lerobot_v30_video(tmp_path)
    dataset = opened(tmp_path)
    # Key frames are 4 apart; episodes begin at frames 0, 9, 14 and 20 of the front camera's file.
    assert [dataset.block_starts(number).tolist() for number in range(4)] == [[0, 4, 8], [0, 3], [0, 2], [0, 4]]
    assert dataset.frame_count(1, "front") is None


def shift(root: Path, part: str, seconds: list[float]) -> None:
    """Move where the front camera's clips of the first three episodes begin or end."""
    name = f"videos/observation.images.front/{part}"
    rewrite(root / EPISODES, lambda table: replace(table, name, pa.array(table[name].to_numpy() + seconds)))


def test_a_clip_of_another_length_than_its_episode_is_an_error(tmp_path: Path) -> None:
    made = write_lerobot_v30_video(tmp_path)
    shift(tmp_path, "from_timestamp", [0, 0.1, 0])
    dataset = opened(tmp_path)
    with pytest.raises(
        DataError,
        match=r"meta/episodes: episode 1: observation\.images\.front in .*file-000\.mp4: expected a clip of 5 frames "
        r"at 20 fps, so 0\.2500 s, found 0\.5500 s to 0\.7000 s",
    ):
        dataset.images(1, "front", np.array([0]))
    for number, view in ((1, "wrist"), (0, "front")):
        np.testing.assert_array_equal(dataset.images(number, view), made[number].images[view])


def test_clips_that_overlap_are_an_error_in_both_episodes(tmp_path: Path) -> None:
    made = write_lerobot_v30_video(tmp_path)
    for part in ("from_timestamp", "to_timestamp"):
        shift(tmp_path, part, [0, -0.05, 0])
    dataset = opened(tmp_path)
    with pytest.raises(DataError, match=r"episode 1: .* its 5 from 0\.4000 s overlapping the 9 of episode 0 from 0\.0"):
        dataset.images(1, "front")
    with pytest.raises(DataError, match=r"episode 0: .* its 9 from 0\.0000 s overlapping the 5 of episode 1 from 0\.4"):
        dataset.images(0, "front")
    np.testing.assert_array_equal(dataset.images(2, "front"), made[2].images["front"])


@pytest.mark.parametrize("parts", [["from_timestamp"], ["to_timestamp"], ["from_timestamp", "to_timestamp"]])
@pytest.mark.parametrize("drift", [0.02, -0.02])
def test_times_that_drift_less_than_half_a_frame_are_no_error(tmp_path: Path, parts: list[str], drift: float) -> None:
    made = write_lerobot_v30_video(tmp_path)
    for part in parts:
        shift(tmp_path, part, [0, drift, 0])
    dataset = opened(tmp_path)
    for number, episode in enumerate(made):
        np.testing.assert_array_equal(dataset.images(number, "front"), episode.images["front"])


def test_clips_are_compared_where_the_table_does_not_say_where_they_end(tmp_path: Path) -> None:
    made = write_lerobot_v30_video(tmp_path)
    shift(tmp_path, "from_timestamp", [0, 0, 0.05])
    for path in (tmp_path / "meta/episodes").rglob("*.parquet"):
        rewrite(path, lambda table: table.drop_columns([name for name in table.column_names if "to_time" in name]))
    dataset = opened(tmp_path)
    np.testing.assert_array_equal(dataset.images(1, "front"), made[1].images["front"])
    for number, other in ((2, 3), (3, 2)):
        with pytest.raises(DataError, match=rf"episode {number}: .* overlapping the \d of episode {other} from"):
            dataset.images(number, "front")
