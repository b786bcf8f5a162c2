"""Observations under the keys that users have: views, columns and the simulator's keys mean the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from bundles import a_bundle

from tests.formats.miniature_behavior import COLUMNS, write_behavior
from tests.formats.miniature_lerobot import Episode
from vla.columns import Columns
from vla.errors import DataError
from vla.folder import Folder
from vla.formats.behavior_2025 import open_dataset
from vla.models import inference
from vla.models.bundle import Bundle, BundleConfig
from vla.models.observed import read_state, sensing

VIEWS = {"front": "observation.images.rgb.head", "wrist": "observation.images.rgb.left_wrist"}
HEAD = "robot_r1::robot_r1:zed_link:Camera:0::rgb"
LEFT = "robot_r1::robot_r1:left_realsense_link:Camera:0::rgb"
RIGHT = "robot_r1::robot_r1:right_realsense_link:Camera:0::rgb"
PROPRIO = "robot_r1::proprio"
FRONT, WRIST = (np.full((2, 3, 3), value, dtype=np.uint8) for value in (10, 20))
SEEN = {"front": FRONT, "wrist": WRIST}


def config(
    state: str | tuple[str, ...] = "observation.state[1:3]",
    views: Mapping[str, str] = VIEWS,
    *,
    sizes: Mapping[str, int] = {"observation.state": 5},
) -> BundleConfig:
    """What is known of a policy whose state has two dimensions, out of columns of the given sizes."""
    columns = Columns(state=state, actions="action", views=views)
    return BundleConfig.model_construct(
        columns=columns, state_columns=sizes, views=tuple(views), state_names=("lift", "grip")
    )


def sensed(settings: BundleConfig, given: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """A pixel of each view in the policy's order, and the state."""
    found = sensing(settings, given, time=0.5, where="here")
    assert found.time == 0.5
    assert found.state_S.dtype == np.float32
    return [int(found.images[view][0, 0, 0]) for view in settings.views], found.state_S.tolist()


def refusal(settings: BundleConfig, given: Mapping[str, Any]) -> str:
    with pytest.raises(DataError) as caught:
        sensing(settings, given, time=0.0, where="here")
    return str(caught.value)


@pytest.mark.parametrize("front", ["front", VIEWS["front"], HEAD, "robot::robot:zed_link:Camera:0::rgb"])
@pytest.mark.parametrize("wrist", ["wrist", VIEWS["wrist"], LEFT])
@pytest.mark.parametrize("state", ["state", "observation.state", PROPRIO])
def test_all_spellings_mean_the_same(front: str, wrist: str, state: str) -> None:
    images = {wrist: WRIST, front: FRONT}
    assert sensed(config(), {**images, state: [7.0, 8.0]}) == ([10, 20], [7.0, 8.0])
    assert sensed(config(), {**images, state: np.arange(5.0)}) == ([10, 20], [1.0, 2.0])


def test_each_camera_of_the_simulator_is_the_column_that_was_recorded_from_it() -> None:
    views = {name: f"observation.images.rgb.{name}" for name in ("right_wrist", "head", "left_wrist")}
    given = {key: np.full((1, 1, 3), value, np.uint8) for value, key in enumerate((HEAD, LEFT, RIGHT))}
    assert sensed(config(views=views), {**given, "state": [0, 0]})[0] == [2, 0, 1]


def test_alpha_is_dropped() -> None:
    alpha = np.dstack([FRONT, np.full((2, 3), 255, np.uint8)])
    found = sensing(config(), {HEAD: alpha, "wrist": WRIST, "state": [0.0, 0.0]}, time=0.0, where="here")
    np.testing.assert_array_equal(found.images["front"], FRONT)


def test_what_else_the_simulator_senses_may_stay() -> None:
    beside = {
        RIGHT: FRONT,
        "robot_r1::robot_r1:zed_link:Camera:0::depth_linear": np.zeros((2, 3), np.float32),
        "robot_r1::cam_rel_poses": np.zeros(21),
        "task_id": np.array([3]),
    }
    assert sensed(config(), {HEAD: FRONT, LEFT: WRIST, PROPRIO: np.arange(5.0), **beside}) == ([10, 20], [1.0, 2.0])


def test_a_views_own_name_comes_before_another_views_column() -> None:
    crossed = config(views={"image_1": "image_2", "image_2": "image_1"})
    assert sensed(crossed, {"image_1": FRONT, "image_2": WRIST, "state": [0, 0]})[0] == [10, 20]


def test_the_key_says_whose_order_it_is_where_both_have_as_many_values() -> None:
    swapped = config(("observation.state[1:2]", "observation.state[0:1]"), sizes={"observation.state": 2})
    assert sensed(swapped, {**SEEN, "state": [7, 8]})[1] == [7, 8]
    assert sensed(swapped, {**SEEN, "observation.state": [7, 8]})[1] == [8, 7]
    assert sensed(swapped, {**SEEN, PROPRIO: [7, 8]})[1] == [8, 7]
    called_state = config(("state[1:2]", "state[0:1]"), sizes={"state": 2})
    assert sensed(called_state, {**SEEN, "state": [7, 8]})[1] == [8, 7]


def test_sums_are_taken_as_in_training() -> None:
    fingers = config(("observation.state[0:1]", "sum(observation.state[3:5])"))
    assert sensed(fingers, {**SEEN, PROPRIO: np.array([1, 2, 3, 4, 5], np.int64)})[1] == [1.0, 9.0]


def test_a_state_out_of_several_columns_is_given_by_all_of_them_or_by_its_own_values() -> None:
    both = config(("arm.pos[1:2]", "grip.pos"), sizes={"grip.pos": 1, "arm.pos": 3})
    assert sensed(both, {**SEEN, "grip.pos": [9], "arm.pos": [1, 2, 3]})[1] == [2, 9]
    assert sensed(both, {**SEEN, "state": [2, 9]})[1] == [2, 9]
    assert refusal(both, {**SEEN, "arm.pos": [1, 2, 3]}).endswith("Add grip.pos.")
    assert "here: state: expected 2 state values" in refusal(both, {**SEEN, PROPRIO: [2, 9]})
    assert "2 state values (lift, grip) or all 1 of grip.pos and 3 of arm.pos, found 1, 2. Give them all." in refusal(
        both, {**SEEN, "grip.pos": [9], "arm.pos": [1, 2]}
    )


def test_a_state_of_another_length_is_refused_with_both_that_fit() -> None:
    expected = "expected 2 state values (lift, grip) or all 5 of observation.state, found"
    assert refusal(config(), {**SEEN, PROPRIO: np.zeros(61)}) == (
        f"here: observation.state: {expected} 61. Give them all."
    )
    assert f"here: state: {expected} [1, 5]." in refusal(config(), {**SEEN, "state": np.zeros((1, 5))})
    assert f"here: state: {expected} 0." in refusal(config(), SEEN)
    whole = config("observation.state", sizes={"observation.state": 2})
    assert "expected 2 state values (lift, grip), found 3. Give" in refusal(whole, {**SEEN, "state": np.zeros(3)})


def test_a_state_that_is_not_finite_is_refused_where_it_is_used() -> None:
    nan = float("nan")
    assert sensed(config(), {**SEEN, PROPRIO: [nan, 1, 2, nan, nan]})[1] == [1, 2]
    assert "expected finite state values, found [1.0, nan]" in refusal(config(), {**SEEN, PROPRIO: [0, 1, nan, 0, 0]})
    assert "expected finite state values, found [1.0, inf]" in refusal(config(), {**SEEN, "state": [1.0, 1e300]})
    assert "expected numbers, found <U1" in refusal(config(), {**SEEN, "state": ["1", "2"]})


def test_a_state_alone_is_read_by_the_same_rule() -> None:
    assert read_state(config(), [7.0, 8.0], where="--state").tolist() == [7.0, 8.0]
    assert read_state(config(), np.arange(5.0), where="--state").tolist() == [1.0, 2.0]
    with pytest.raises(DataError, match=r"^--state: expected 2 state values \(lift, grip\) or all 5 .*, found 0\."):
        read_state(config(), None, where="--state")


def test_what_is_missing_unknown_or_there_twice_is_named() -> None:
    assert refusal(config(), {"front": FRONT, "state": [0, 0], "wirst": WRIST}) == (
        "here: expected one image for each of the views front (or observation.images.rgb.head), "
        "wrist (or observation.images.rgb.left_wrist), and state (or observation.state), found front, state, wirst. "
        "Add wrist. Take out wirst. Did you mean 'wrist'?"
    )
    assert refusal(config(), {**SEEN, HEAD: FRONT}).endswith(f"Give only one of front, {HEAD}.")
    twice = {**SEEN, "state": [0, 0], PROPRIO: np.zeros(5)}
    assert refusal(config(), twice).endswith(f"Give only one of state, {PROPRIO}.")
    assert "found none. Add front. Add wrist." in refusal(config(), {})


@pytest.mark.parametrize(
    "image", [FRONT.astype(np.float32), FRONT[:, :, 0], FRONT[:, :, :2], FRONT[None], FRONT[:0]], ids=str
)
def test_what_is_no_image_of_bytes_is_refused(image: np.ndarray) -> None:
    message = refusal(config(), {HEAD: image, "wrist": WRIST, "state": [0, 0]})
    assert message.startswith(f"here: {HEAD}: expected an image of uint8 [rows, columns, 3 or 4], found {image.dtype}")


@pytest.fixture(scope="module")
def behavior(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Episode]]:
    root = tmp_path_factory.mktemp("behavior")
    return root, write_behavior(root)


def test_the_simulators_observation_gives_the_actions_of_the_recorded_one(
    behavior: tuple[Path, list[Episode]], tmp_path: Path
) -> None:
    dataset = open_dataset(Folder(behavior[0]), COLUMNS, name="test")
    schema = dataset.schema
    bundle: Bundle = a_bundle(
        tmp_path / "policy",
        state_names=schema.state_names,
        action_names=schema.action_names,
        columns=COLUMNS,
        state_columns=dict(schema.state_columns),
    )
    step = np.array([4])
    seen = {view: dataset.images(30, view, step)[0] for view in COLUMNS.views}
    recorded = sensing(bundle.config, {**seen, "state": dataset.steps(30).state_TS[4]}, time=0.0, where="recorded")
    proprioception = raw_state(behavior[0], 30)[4]
    assert proprioception.shape == (256,)
    alpha = np.full((*schema.views["front"], 1), 255, np.uint8)
    simulated = sensing(
        bundle.config,
        {
            PROPRIO: proprioception,
            LEFT: np.dstack([seen["wrist"], alpha]),
            HEAD: np.dstack([seen["front"], alpha]),
            RIGHT: np.dstack([seen["front"], alpha]),
        },
        time=0.0,
        where="simulated",
    )
    first, second = (
        inference.predict_alone(bundle, [each], ["open the drawer"], seed=0) for each in (recorded, simulated)
    )
    np.testing.assert_array_equal(first, second)


def raw_state(root: Path, episode: int) -> np.ndarray:
    """The whole column as recorded."""
    table = pq.read_table(root / f"data/task-{episode // 10000:04d}/episode_{episode:08d}.parquet")
    return np.array(table["observation.state"].to_pylist(), dtype=np.float32)
