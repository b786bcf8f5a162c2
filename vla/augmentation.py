"""Training-time image augmentation, keyed: a function of (seed, presentation), the same in every process.

One draw per presented sample holds for all its steps and views, so that what views and steps have in common stays so;
only the small shift is drawn for each view. Images are moved by one bilinear resample with repeated edges, then
coloured, in one rounding back to 8 bits. Torch does it, because it is the fastest on one core and takes images as they
are; it is imported only where there is something to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from pydantic import Field

from vla import keyed
from vla.config import Config
from vla.errors import ConfigError
from vla.registry import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in brightness as seen (ITU-R BT.601)."""
Jitter = Annotated[float, Field(ge=0, le=1)]


class AugmentConfig(Config):
    """Training-time image augmentation; what is not named is off."""

    shift_px: Annotated[int, Field(ge=0)]
    """Largest random shift in pixels, drawn for each view (edge pixels repeated), as DrQ (arXiv:2004.13649)."""
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of each side that a random crop keeps; the crop is enlarged to the full size."""
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest random rotation about the centre, either way."""
    brightness: Jitter = 0.0
    """x multiplies pixels by a factor from [1 - x, 1 + x]."""
    contrast: Jitter = 0.0
    """x multiplies the distance of pixels from the image's mean luma by a factor from [1 - x, 1 + x]."""
    saturation: Jitter = 0.0
    """x multiplies the distance of pixels from their own luma by a factor from [1 - x, 1 + x]."""
    colour_only: tuple[str, ...] = ()
    """Views that are not moved: a wrist camera's picture is fixed to the hand."""

    def check_views(self, views: Sequence[str]) -> None:
        """Raises ConfigError when `colour_only` names a view that the policy does not have."""
        for view in self.colour_only:
            if view not in views:
                raise ConfigError(
                    f"transforms.augment.colour_only: expected some of {', '.join(views)}, found {view!r}."
                    f"{did_you_mean(view, list(views))}"
                )


@dataclass(frozen=True, slots=True)
class Draw:
    """The augmentation of one presented sample."""

    affine_V33: Float64[np.ndarray, "V 3 3"]
    """Takes places (column, row, 1) of the augmented image to those of the given one; pixel 0 spans 0 to 1."""
    factors: tuple[float, float, float]
    """Of brightness, contrast and saturation."""


def draw(cfg: AugmentConfig, *, views: Sequence[str], size: tuple[int, int], seed: int, presentation: int) -> Draw:
    """The draw that belongs to a presentation, for images of `size` (rows, columns)."""
    unit = keyed.uniform(seed, "augment", presentation, 1, count=6)
    angle = np.deg2rad(cfg.rotate_degrees) * (2 * unit[0] - 1)
    centre = np.array([size[1], size[0]]) / 2
    offset = (1 - cfg.crop) * (2 * unit[1:3] - 1) * centre
    turned = cfg.crop * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine_V33 = np.tile(np.eye(3), (len(views), 1, 1))
    for affine, view, shift in zip(affine_V33, views, shifts(cfg, seed, presentation, len(views)), strict=True):
        if view not in cfg.colour_only:
            affine[:2, :2] = turned
            affine[:2, 2] = centre + offset - turned @ (centre + shift[::-1])
    jitter = np.array([cfg.brightness, cfg.contrast, cfg.saturation])
    brightness, contrast, saturation = (1 + jitter * (2 * unit[3:] - 1)).tolist()
    return Draw(affine_V33, (brightness, contrast, saturation))


def shifts(cfg: AugmentConfig, seed: int, presentation: int, num_views: int) -> Int64[np.ndarray, "V 2"]:
    """Rows and columns by which each view's contents move."""
    limit = cfg.shift_px
    draws = keyed.integers(seed, "augment", presentation, count=2 * num_views, low=-limit, high=limit + 1)
    return draws.reshape(num_views, 2)


def augment(
    images_TVCYX: UInt8[np.ndarray, "T V C Y X"],
    cfg: AugmentConfig,
    *,
    views: Sequence[str],
    seed: int,
    presentation: int,
) -> None:
    """Augment the images of one presented sample in place."""
    coloured = bool(cfg.brightness or cfg.contrast or cfg.saturation)
    resampled = cfg.crop < 1 or cfg.rotate_degrees > 0
    if not (coloured or resampled):
        # Whole pixels need no interpolation.
        if cfg.shift_px:
            for view, offset in enumerate(shifts(cfg, seed, presentation, len(views))):
                if views[view] not in cfg.colour_only:
                    images_TVCYX[:, view] = shifted(images_TVCYX[:, view], offset)
        return
    rows, columns = images_TVCYX.shape[-2:]
    drawn = draw(cfg, views=views, size=(rows, columns), seed=seed, presentation=presentation)
    for view, affine in enumerate(drawn.affine_V33):
        images_TVCYX[:, view] = transformed(images_TVCYX[:, view], affine, drawn.factors)


def shifted(images_TCYX: UInt8[np.ndarray, "T C Y X"], offset: Int64[np.ndarray, "2"]) -> UInt8[np.ndarray, "T C Y X"]:
    """Contents moved by (rows, columns) pixels, with the edge pixels repeated."""
    rows, columns = images_TCYX.shape[2:]
    down, right = int(offset[0].clip(1 - rows, rows - 1)), int(offset[1].clip(1 - columns, columns - 1))
    moved = np.empty_like(images_TCYX)
    kept = images_TCYX[..., max(-down, 0) : rows - max(down, 0), max(-right, 0) : columns - max(right, 0)]
    moved[..., max(down, 0) : rows + min(down, 0), max(right, 0) : columns + min(right, 0)] = kept
    for edge, by in ((moved, right), (moved.swapaxes(2, 3), down)):
        if by > 0:
            edge[..., :by] = edge[..., by : by + 1]
        elif by < 0:
            edge[..., by:] = edge[..., by - 1 : by]
    return moved


def transformed(
    images_TCYX: UInt8[np.ndarray, "T C Y X"], affine_33: Float64[np.ndarray, "3 3"], factors: tuple[float, ...]
) -> UInt8[np.ndarray, "T C Y X"]:
    """Resampled at the places that `affine_33` names, then coloured by `factors`.

    Brightness, contrast and saturation follow each other without a limit between them, so they are one matrix.
    """
    import torch
    from torch.nn.functional import grid_sample

    steps, channels, rows, columns = images_TCYX.shape
    pixels = torch.from_numpy(np.ascontiguousarray(images_TCYX)).to(torch.float32)
    if not np.array_equal(affine_33, np.eye(3)):
        planes = pixels.view(1, steps * channels, rows, columns)
        grid = _grid(affine_33, rows, columns)
        moved = grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
        pixels = moved.view(steps, channels, rows, columns)
    if factors != (1.0, 1.0, 1.0):
        matrix_33, level_T = _colours(images_TCYX, factors)
        matrix = torch.from_numpy(matrix_33).expand(steps, 3, 3)
        flat = pixels.view(steps, channels, rows * columns)
        pixels = torch.baddbmm(torch.from_numpy(level_T).view(steps, 1, 1), matrix, flat)
    return pixels.add_(0.5).clamp_(0, 255).numpy().astype(np.uint8).reshape(images_TCYX.shape)


def _colours(
    images_TCYX: UInt8[np.ndarray, "T C Y X"], factors: tuple[float, ...]
) -> tuple[Float32[np.ndarray, "3 3"], Float32[np.ndarray, "T"]]:
    """The matrix that multiplies each pixel, and what is added to all pixels of each image."""
    brightness, contrast, saturation = factors
    matrix_33 = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * LUMA)
    # Of the image before it is moved: a sum of integers is the same in whatever order it is taken.
    mean_TC = images_TCYX.sum(axis=(2, 3), dtype=np.uint32) / np.prod(images_TCYX.shape[2:])
    level_T = (1 - contrast) * brightness * (mean_TC @ LUMA)
    return matrix_33.astype(np.float32), level_T.astype(np.float32)


def _grid(affine_33: Float64[np.ndarray, "3 3"], rows: int, columns: int) -> "Tensor":
    """Where each pixel comes from, from -1 to 1 across the image, as [1, rows, columns, 2]: a product of rank two."""
    import torch

    scaled = 2 * affine_33[:2] / np.array([[columns], [rows]])
    down_Y2 = np.stack([np.arange(rows) + 0.5, np.ones(rows)], axis=1)
    across_2X2 = np.empty((2, columns, 2))
    across_2X2[0] = scaled[:, 1]
    across_2X2[1] = (np.arange(columns) + 0.5)[:, None] * scaled[:, 0] + scaled[:, 2] - 1
    down, across = (torch.from_numpy(values.astype(np.float32)) for values in (down_Y2, across_2X2.reshape(2, -1)))
    return (down @ across).view(1, rows, columns, 2)


def adjust_intrinsics(
    intrinsics_33: Float64[np.ndarray, "3 3"], affine_33: Float64[np.ndarray, "3 3"]
) -> Float64[np.ndarray, "3 3"]:
    """The camera matrix of the augmented image, from that of the given one."""
    return np.linalg.inv(affine_33) @ intrinsics_33


def moved_depth(
    depth_YX: Float32[np.ndarray, "Y X"], affine_33: Float64[np.ndarray, "3 3"]
) -> Float32[np.ndarray, "Y X"]:
    """Depth resampled as the image is, from the nearest pixel: a mean of two distances is none of them."""
    rows, columns = depth_YX.shape
    column, row = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
    x, y = np.einsum("ij,jyx->iyx", affine_33[:2], np.stack([column, row, np.ones_like(row)]))
    return depth_YX[np.floor(y).astype(np.int64).clip(0, rows - 1), np.floor(x).astype(np.int64).clip(0, columns - 1)]
