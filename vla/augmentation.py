"""Training-time image augmentation, keyed: a function of (seed, presentation), the same in every process."""

from typing import Annotated

import numpy as np
from jaxtyping import Int64, UInt8
from pydantic import Field

from vla import keyed
from vla.config import Config


class AugmentConfig(Config):
    """Training-time image augmentation, keyed: one draw per sample and view."""

    shift_px: Annotated[int, Field(ge=0)]
    """Largest random shift in pixels (edge pixels repeated), as DrQ (arXiv:2004.13649)."""


def shift(
    images_VCYX: UInt8[np.ndarray, "V C Y X"], offsets_V2: Int64[np.ndarray, "V 2"]
) -> UInt8[np.ndarray, "V C Y X"]:
    """Move each view's contents by (rows, columns) pixels, repeating the edge pixels."""
    rows, columns = images_VCYX.shape[2:]
    row_index = (np.arange(rows) - offsets_V2[:, :1]).clip(0, rows - 1)
    column_index = (np.arange(columns) - offsets_V2[:, 1:]).clip(0, columns - 1)
    views = np.arange(len(images_VCYX))[:, None, None]
    # Indexing the axes around C puts C last.
    moved = images_VCYX[views, :, row_index[:, :, None], column_index[:, None, :]]
    return np.moveaxis(moved, -1, 1)


def shift_offsets(cfg: AugmentConfig, seed: int, presentation: int, num_views: int) -> Int64[np.ndarray, "V 2"]:
    """The augmentation draw of one presented sample."""
    limit = cfg.shift_px
    draws = keyed.integers(seed, "augment", presentation, count=2 * num_views, low=-limit, high=limit + 1)
    return draws.reshape(num_views, 2)
