"""Ray-cast pictures: geometry against MuJoCo's own numbers, shapes against its exact single rays."""

import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest

from vla.sim.cameras import AMBIENT, Camera, RayCaster, look_at
from vla.sim.world import VIEWS, World

BALL = """
<mujoco>
  <worldbody>
    <geom name="ball" type="sphere" size="0.5" pos="0 3 0" rgba="1 0 0 1"/>
    <geom name="hidden" type="sphere" size="0.5" pos="0 1.5 0" rgba="0 1 0 1" group="4"/>
    <geom name="glass" type="sphere" size="0.5" pos="0 1.5 0" rgba="0 0 1 0"/>
    <site name="goal" type="sphere" size="0.1" pos="0 2 0" rgba="0 1 0 1"/>
  </worldbody>
</mujoco>
"""


def scene(xml: str) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def ahead(size: tuple[int, int] = (5, 7)) -> Camera:
    """At the origin, looking along y."""
    return Camera.make(np.zeros(3), look_at(np.zeros(3), np.array([0.0, 1.0, 0.0])), 60.0, size)


def test_axes_are_right_down_forward() -> None:
    rotation = look_at(np.zeros(3), np.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(rotation[:, 0], [1, 0, 0])
    np.testing.assert_allclose(rotation[:, 1], [0, 0, -1])
    np.testing.assert_allclose(rotation[:, 2], [0, 1, 0])


def test_intrinsics_follow_from_the_field_of_view() -> None:
    camera = Camera.make(np.zeros(3), np.eye(3), 90.0, (4, 6))
    np.testing.assert_allclose(camera.intrinsics, [[2, 0, 3], [0, 2, 2], [0, 0, 1]])


def test_the_middle_pixel_sees_the_ball_at_its_distance() -> None:
    model, data = scene(BALL)
    frame = RayCaster(model).draw(data, ahead(), {})
    assert frame.segmentation[2, 3] == model.geom("ball").id
    assert frame.depth[2, 3] == pytest.approx(2.5)


def test_shapes_for_collision_only_and_transparent_ones_are_not_seen() -> None:
    model, data = scene(BALL)
    frame = RayCaster(model).draw(data, ahead((32, 32)), {})
    assert set(np.unique(frame.segmentation)) == {-1, model.geom("ball").id}


def test_a_marker_hides_what_lies_behind_it_and_has_its_own_id() -> None:
    model, data = scene(BALL)
    site = model.site("goal").id
    frame = RayCaster(model).draw(data, ahead(), {site: np.array([0.0, 2.0, 0.0])})
    assert frame.segmentation[2, 3] == model.ngeom + site
    assert frame.depth[2, 3] == pytest.approx(1.9)
    red, green, blue = frame.rgb[2, 3].tolist()
    assert green > 255 * AMBIENT
    assert red == blue == 0


def test_where_nothing_is_hit_there_is_sky_and_no_depth() -> None:
    model, data = scene(BALL)
    frame = RayCaster(model).draw(data, ahead(), {})
    assert frame.segmentation[0, 0] == -1
    assert frame.depth[0, 0] == 0
    assert frame.rgb[0, 0].min() > 100


def test_depth_is_along_the_optical_axis_not_along_the_ray() -> None:
    wall = '<mujoco><worldbody><geom type="box" size="9 0.1 9" pos="0 3 0"/></worldbody></mujoco>'
    model, data = scene(wall)
    frame = RayCaster(model).draw(data, ahead((9, 9)), {})
    np.testing.assert_allclose(frame.depth, 2.9, rtol=1e-6)


def test_a_flat_surface_has_one_brightness_up_to_the_head_light() -> None:
    wall = '<mujoco><worldbody><geom type="box" size="9 0.1 9" pos="0 3 0" rgba="1 1 1 1"/></worldbody></mujoco>'
    model, data = scene(wall)
    camera = Camera.make(np.zeros(3), look_at(np.zeros(3), np.array([0.0, 1.0, 0.0])), 2.0, (9, 9))
    rgb = RayCaster(model).draw(data, camera, {}).rgb
    assert int(rgb.max()) - int(rgb.min()) <= 1


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("task", ["drawer-open-v3", "faucet-open-v3"])
def test_every_pixel_hits_what_an_exact_single_ray_hits(task: str, view: str) -> None:
    """MuJoCo's own pruning of many rays leaves holes in objects straight below a camera."""
    world = World(task, image_size=(24, 24))
    world.reset(5)
    for _ in range(30):
        world.step(np.array([0.3, 0.6, -0.4, -1.0], dtype=np.float32))
    model, data, camera = world._env.model, world._env.data, world.camera(view)
    rays, hit = camera.rays(), np.zeros(1, dtype=np.int32)
    groups = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)
    exact = np.empty(camera.size, dtype=np.int32)
    for place in np.ndindex(camera.size):
        mujoco.mj_ray(model, data, camera.pose[:3, 3], rays[place], groups, 1, -1, hit)
        exact[place] = hit[0]
    seen = RayCaster(model).draw(data, camera, {}).segmentation
    np.testing.assert_array_equal(seen, exact)


def test_depth_intrinsics_and_pose_lead_back_to_the_object() -> None:
    world = World("drawer-open-v3", image_size=(64, 64))
    world.reset(1)
    (site, goal), *_ = world._markers().items()
    frame, camera = world.look("front"), world.camera("front")
    marked = frame.segmentation == world._env.model.ngeom + site
    assert marked.any()
    row, column = np.argwhere(marked).mean(axis=0)
    pixel = np.array([column + 0.5, row + 0.5, 1.0])
    point = camera.pose[:3, :3] @ (np.linalg.inv(camera.intrinsics) @ pixel * frame.depth[marked].mean())
    np.testing.assert_allclose(point + camera.pose[:3, 3], goal, atol=0.03)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see the loaded libraries")
def test_pictures_are_drawn_without_loading_a_graphics_library() -> None:
    program = """
from pathlib import Path
from vla.sim.world import World
world = World("drawer-open-v3", image_size=(8, 8))
world.reset(0)
assert world.look("front").rgb.std() > 5
print(Path("/proc/self/maps").read_text())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "libmujoco" in done.stdout
    for library in ("libGL", "libEGL", "OSMesa", "libX11"):
        assert library not in done.stdout
