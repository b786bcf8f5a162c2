"""Depth in LeRobot datasets: columns of floats as `vla.sim` writes them, and 12-bit video as LeRobot 0.6 does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.formats.files import encode, write_json
from tests.formats.miniature_lerobot import COLUMNS, config, demonstration, write_lerobot_v2
from vla.columns import Columns
from vla.errors import DataError
from vla.folder import Folder
from vla.formats import Dataset, lerobot_v21, lerobot_v30
from vla.lerobot_depth import DepthCode
from vla.sim.write import write_dataset

SIM = COLUMNS.model_copy(update={"depth": {"front": "observation.depth.front"}})
VIDEO = COLUMNS.model_copy(update={"depth": {"wrist": "depth"}})
SIZE = (32, 48)
CODES = np.linspace(0, 4095, SIZE[0] * SIZE[1]).round().astype(np.uint16).reshape(SIZE)
ENCODING = {"is_depth_map": True, "video.pix_fmt": "gray12le", "video.depth_min": 0.5, "video.depth_max": 8.0}


def simulated(root: Path, columns: Columns = SIM) -> tuple[Dataset, list[np.ndarray]]:
    """A dataset of the simulator with two episodes, and the depth of its front camera."""
    made = [np.random.default_rng(length).random((length, 8, 10), dtype=np.float32) for length in (3, 4)]
    views = ("front", "wrist")
    extras = [{f"observation.depth.{view}": depth for view in views} for depth in made]
    tasks = ("drawer-open-v3", "faucet-close-v3")
    told = [
        demonstration(task, len(depth), seed=1, extras=own)
        for task, depth, own in zip(tasks, made, extras, strict=True)
    ]
    write_dataset(root, told, config(extras=("depth",)))
    return lerobot_v30.open_dataset(Folder(root), columns, name="test"), made


def filmed(root: Path, **encoding: Any) -> Dataset:
    """A dataset whose depth video shows the same codes in every frame but the third, which is empty."""
    made = write_lerobot_v2(root, "v2.1", "image")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["depth"] = {"dtype": "video", "shape": [*SIZE, 1], "info": {**ENCODING, **encoding}}
    write_json(root / "meta/info.json", info)
    for each in made:
        frames = np.stack([CODES * (step != 2) for step in range(len(each))])
        path = root / f"videos/chunk-000/depth/episode_{each.number:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"x265-params": "lossless=1:log-level=none"}
        encode(path, frames, "libx265", pixels="gray12le", given="gray12le", options=options)
    return lerobot_v21.open_dataset(Folder(root), VIDEO, name="test")


def test_depth_of_the_simulator_is_read_exactly(tmp_path: Path) -> None:
    dataset, made = simulated(tmp_path)
    assert dataset.schema.depth == {"front": (8, 10)}
    for episode, depth in enumerate(made):
        read = dataset.depth(episode, "front")
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, depth)
    np.testing.assert_array_equal(dataset.depth(1, "front", np.array([3, 0, 3])), made[1][[3, 0, 3]])


def test_depth_of_another_size_than_declared_is_an_error(tmp_path: Path) -> None:
    simulated(tmp_path)
    path = tmp_path / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("observation.depth.front")
    rows = pa.array([[[0.0] * 10] * 7] * 7, pa.list_(pa.list_(pa.float32())))
    pq.write_table(table.set_column(place, "observation.depth.front", rows), path)
    dataset = lerobot_v30.open_dataset(Folder(tmp_path), SIM, name="test")
    with pytest.raises(
        DataError, match=r"episode 1, observation\.depth\.front: expected lists of 8 lists of 10 numbers"
    ):
        dataset.depth(1, "front")


@pytest.mark.parametrize(
    ("column", "found"), [("action", r"float32 of shape \[4\]"), ("index", r"int64 of shape \[1\]")]
)
def test_other_columns_are_no_depth(tmp_path: Path, column: str, found: str) -> None:
    with pytest.raises(
        DataError, match=rf"{column}: expected depth, .* or floats of shape \[rows, columns\], found {found}"
    ):
        simulated(tmp_path, SIM.model_copy(update={"depth": {"front": column}}))


def test_depth_video_is_read_in_metres_by_the_code_that_the_dataset_describes(tmp_path: Path) -> None:
    depth = filmed(tmp_path, **{"video.shift": 1.0}).depth(0, "wrist")
    assert depth.shape == (9, *SIZE)
    expected = np.exp(np.log(1.5) + CODES / 4095 * np.log(9 / 1.5)) - 1
    expected[CODES == 0] = 0
    np.testing.assert_allclose(depth[1], expected, rtol=1e-5)
    np.testing.assert_array_equal(depth[2], 0)


def test_depth_may_be_coded_without_a_logarithm(tmp_path: Path) -> None:
    depth = filmed(tmp_path, **{"video.use_log": False}).depth(0, "wrist", np.array([4]))
    np.testing.assert_allclose(depth[0][CODES > 0], (0.5 + CODES / 4095 * 7.5)[CODES > 0], rtol=1e-5)


def test_depth_videos_are_files_of_the_episode(tmp_path: Path) -> None:
    dataset = filmed(tmp_path)
    assert Path("videos/chunk-000/depth/episode_000001.mp4") in dataset.episode_files(1)
    assert dataset.schema.depth == {"wrist": SIZE}


@pytest.mark.parametrize(
    "encoding",
    [
        {"video.pix_fmt": "yuv420p"},
        {"video.depth_min": 9.0},
        {"video.depth_min": 0.0, "video.shift": 0.0},
        {"video.depth_max": "far"},
    ],
)
def test_depth_video_of_another_kind_is_an_error(tmp_path: Path, encoding: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"info\.json: depth: expected a depth video of video\.pix_fmt gray12le"):
        filmed(tmp_path, **encoding)


def test_the_usual_code_holds_where_the_dataset_does_not_describe_it() -> None:
    code = DepthCode.read({"video.pix_fmt": "gray12le"}, where="here")
    levels = np.array([[0, 16, 4095 << 4, 65535]], dtype=np.uint16)
    first = np.exp(np.log(3.51) + np.log(13.5 / 3.51) / 4095) - 3.5
    np.testing.assert_allclose(code(levels), [[0, first, 10, 10]], rtol=1e-5)
