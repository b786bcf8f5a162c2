"""Cameras without OpenGL: MuJoCo casts one ray per pixel, numpy shades what the rays hit.

At 64 x 64 a picture costs a few CPU milliseconds, needs no graphics library, display or GPU, and is bit-equal on
every run; depth and segmentation come with it. The price: no shadows, no textures (a material shows the mean colour
of its texture) and, from about 200 x 200 on, more time than a GPU would take.
"""

import copy
from dataclasses import dataclass
from typing import Self

import mujoco
import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

VISIBLE_GROUPS = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)
"""MuJoCo's own default: groups 3 to 5 hold collision shapes, which a viewer does not draw."""
FAR = 10.0
"""Metres; a ray that hits nothing nearer sees the background."""
LIGHT = np.array([0.35, -0.45, 0.82]) / np.linalg.norm([0.35, -0.45, 0.82])
"""Direction to the lamp, world frame."""
AMBIENT, DIFFUSE, HEADLIGHT = 0.5, 0.5, 0.3
SKY_LOW, SKY_HIGH = np.array([205.0, 215.0, 225.0]), np.array([120.0, 155.0, 195.0])


@dataclass(frozen=True, slots=True)
class Frame:
    """What a camera sees in one instant."""

    rgb: UInt8[np.ndarray, "Y X 3"]
    depth: Float32[np.ndarray, "Y X"]
    """Metres along the optical axis; 0 where nothing was hit."""
    segmentation: Int32[np.ndarray, "Y X"]
    """Geom id; number of geoms + site id for a marker; -1 where nothing was hit."""


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera in the world frame, in which hand positions are given and the robot's base stands still.

    Camera axes as in OpenCV: x to the right of the image, y down, z forward. The centre of the pixel in row r and
    column c lies at (c + 0.5, r + 0.5).
    """

    intrinsics: Float64[np.ndarray, "3 3"]
    pose: Float64[np.ndarray, "4 4"]
    """Camera to world."""
    size: tuple[int, int]
    """Rows, columns."""

    @classmethod
    def make(
        cls,
        position: Float64[np.ndarray, "3"],
        rotation: Float64[np.ndarray, "3 3"],
        fovy: float,
        size: tuple[int, int],
    ) -> Self:
        """`rotation` camera to world; `fovy` is the vertical field of view in degrees."""
        rows, columns = size
        focal = rows / 2 / np.tan(np.radians(fovy) / 2)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, position
        return cls(np.array([[focal, 0, columns / 2], [0, focal, rows / 2], [0, 0, 1]]), pose, size)

    def rays(self) -> Float64[np.ndarray, "Y X 3"]:
        """Unit vectors through the pixel centres, world frame."""
        rows, columns = self.size
        x = (np.arange(columns) + 0.5 - self.intrinsics[0, 2]) / self.intrinsics[0, 0]
        y = (np.arange(rows) + 0.5 - self.intrinsics[1, 2]) / self.intrinsics[1, 1]
        local = np.stack(np.broadcast_arrays(x[None, :], y[:, None], 1.0), axis=-1)
        local /= np.linalg.norm(local, axis=-1, keepdims=True)
        return local @ self.pose[:3, :3].T


def look_at(position: Float64[np.ndarray, "3"], target: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "3 3"]:
    """Rotation of an upright camera at `position` that has `target` in its centre."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward], axis=1)


class RayCaster:
    """Draws one MuJoCo model."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = copy.copy(model)
        # MuJoCo 3.3 rejects rays early by bounding volumes, and wrongly so: objects straight below a camera get holes.
        # Without the volumes every ray meets every shape, which is exact and as fast in scenes of this size.
        self._model.body_bvhadr[:] = -1
        self._colours = np.concatenate([_geom_colours(model), 255 * model.site_rgba[:, :3].astype(np.float64)])

    def draw(self, data: mujoco.MjData, camera: Camera, markers: dict[int, Float64[np.ndarray, "3"]]) -> Frame:
        """`markers`: site id -> position; drawn as spheres, which MuJoCo's rays would pass through."""
        rays = camera.rays()
        origin = camera.pose[:3, 3].copy()
        distance, hit = self._cast(data, origin, rays)
        for site, centre in markers.items():
            sphere = _sphere_distance(origin, rays, centre, float(self._model.site_size[site, 0]))
            nearer = sphere < distance
            distance[nearer], hit[nearer] = sphere[nearer], self._model.ngeom + site
        nothing = distance >= FAR
        hit[nothing] = -1
        depth = np.where(nothing, 0.0, distance * (rays @ camera.pose[:3, 2]))
        return Frame(self._shade(rays, distance, hit), depth.astype(np.float32), hit)

    def _cast(
        self, data: mujoco.MjData, origin: Float64[np.ndarray, "3"], rays: Float64[np.ndarray, "Y X 3"]
    ) -> tuple[Float64[np.ndarray, "Y X"], Int32[np.ndarray, "Y X"]]:
        count = rays.shape[0] * rays.shape[1]
        hit, distance = np.empty(count, dtype=np.int32), np.empty(count)
        mujoco.mj_multiRay(
            self._model, data, origin, rays.reshape(-1), VISIBLE_GROUPS, 1, -1, hit, distance, count, FAR
        )
        distance[hit < 0] = FAR
        return distance.reshape(rays.shape[:2]), hit.reshape(rays.shape[:2])

    def _shade(
        self, rays: Float64[np.ndarray, "Y X 3"], distance: Float64[np.ndarray, "Y X"], hit: Int32[np.ndarray, "Y X"]
    ) -> UInt8[np.ndarray, "Y X 3"]:
        normal = _normals(rays * distance[..., None], distance)
        facing = -np.einsum("yxc,yxc->yx", normal, rays)
        normal = normal * np.sign(facing)[..., None]
        lamp = np.maximum(normal @ LIGHT, 0.0)
        brightness = AMBIENT + DIFFUSE * lamp + HEADLIGHT * np.abs(facing)
        solid = self._colours[hit] * brightness[..., None]
        height = np.clip(rays[..., 2:] + 0.5, 0.0, 1.0)
        sky = SKY_LOW + (SKY_HIGH - SKY_LOW) * height
        return np.where((hit < 0)[..., None], sky, np.minimum(solid, 255.0)).astype(np.uint8)


def _geom_colours(model: mujoco.MjModel) -> Float64[np.ndarray, "geoms 3"]:
    """A geom's own colour, or its material's times the mean of the material's texture; 0..255."""
    colours = model.geom_rgba[:, :3].astype(np.float64)
    for geom, material in enumerate(model.geom_matid):
        if material >= 0:
            colours[geom] = model.mat_rgba[material, :3]
            texture = model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB]
            if texture >= 0:
                colours[geom] *= _mean_colour(model, texture)
    return 255 * colours


def _mean_colour(model: mujoco.MjModel, texture: int) -> Float64[np.ndarray, "3"]:
    channels = int(model.tex_nchannel[texture])
    start = int(model.tex_adr[texture])
    pixels = model.tex_data[start : start + model.tex_height[texture] * model.tex_width[texture] * channels]
    return np.asarray(pixels.reshape(-1, channels)[:, :3].mean(axis=0) / 255)


def _sphere_distance(
    origin: Float64[np.ndarray, "3"],
    rays: Float64[np.ndarray, "Y X 3"],
    centre: Float64[np.ndarray, "3"],
    radius: float,
) -> Float64[np.ndarray, "Y X"]:
    """Distance along each ray to the near side of a sphere; infinite where the ray misses it."""
    offset = centre - origin
    along = rays @ offset
    inside = radius**2 - (offset @ offset - along**2)
    near = along - np.sqrt(np.maximum(inside, 0.0))
    return np.where((inside >= 0) & (near > 0), near, np.inf)


def _normals(
    points: Float64[np.ndarray, "Y X 3"], distance: Float64[np.ndarray, "Y X"]
) -> Float64[np.ndarray, "Y X 3"]:
    """Unit surface normals of a grid of points, of either sign.

    Each axis takes the neighbour that is nearer in depth, so that a normal never spans the edge between two objects.
    """
    down, right = _tangent(points, distance), _tangent(points.swapaxes(0, 1), distance.T).swapaxes(0, 1)
    normal = np.cross(down, right)
    return normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)


def _tangent(
    points: Float64[np.ndarray, "Y X 3"], distance: Float64[np.ndarray, "Y X"]
) -> Float64[np.ndarray, "Y X 3"]:
    """Difference to the point in the next row or in the previous one, whichever lies nearer in depth."""
    step, jump = np.diff(points, axis=0), np.abs(np.diff(distance, axis=0))
    take_next = np.concatenate([jump, jump[-1:]]) <= np.concatenate([jump[:1], jump])
    return np.where(take_next[..., None], np.concatenate([step, step[-1:]]), np.concatenate([step[:1], step]))
