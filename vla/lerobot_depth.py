"""How LeRobot's depth videos hold distances."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, UInt16

from vla.errors import DataError

LEVELS = 1 << 16


@dataclass(frozen=True, slots=True)
class DepthCode:
    """How the grey levels of a depth video stand for metres: whole-number codes of depth or of log(depth + shift).

    The defaults are those of LeRobot 0.6 (`src/lerobot/datasets/depth_utils.py`), which keeps its codes in `gray12le`.
    """

    near: float = 0.01
    """Depth at code 0, which also marks pixels without depth."""
    far: float = 10.0
    """Depth at the largest code."""
    shift: float = 3.5
    is_log: bool = True
    bits: int = 12
    """Size of a code."""
    unused_bits: int = 4
    """Bits of a 16-bit level below the code."""

    @classmethod
    def read(cls, encoding: Mapping[str, Any], *, where: str) -> Self:
        """The code that LeRobot 0.6 describes in a feature's `info`; raises DataError for another kind of video."""
        pixels = encoding.get("video.pix_fmt")
        keys = {"near": "video.depth_min", "far": "video.depth_max", "shift": "video.shift", "is_log": "video.use_log"}
        found = {name: encoding[key] for name, key in keys.items() if encoding.get(key) is not None}
        code = cls(**found) if all(isinstance(value, int | float) for value in found.values()) else None
        if code is None or pixels != "gray12le" or not 0 <= code.near < code.far or code.near + code.shift <= 0:
            raise DataError(
                f"{where}: expected a depth video of video.pix_fmt gray12le and a range of depths, found {pixels!r} "
                f"and {found}. Convert the depth, or take it out of data.columns.depth."
            )
        return code

    def __call__(self, levels_YX: UInt16[np.ndarray, "Y X"]) -> Float32[np.ndarray, "Y X"]:
        """Metres, 0 where there is no depth."""
        return _metres(self)[levels_YX]


@lru_cache(maxsize=8)
def _metres(code: DepthCode) -> Float32[np.ndarray, "L"]:
    """The depth of every grey level."""
    codes_L = np.arange(LEVELS) >> code.unused_bits
    share_L = codes_L / ((1 << code.bits) - 1)
    if code.is_log:
        low, high = np.log(code.near + code.shift), np.log(code.far + code.shift)
        depth_L = np.exp(low + share_L * (high - low)) - code.shift
    else:
        depth_L = code.near + share_L * (code.far - code.near)
    return np.where(codes_L == 0, 0, np.clip(depth_L, code.near, code.far)).astype(np.float32)
