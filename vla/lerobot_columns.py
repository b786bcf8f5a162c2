"""How LeRobot's Parquet columns and depth videos hold numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Shaped, UInt16
from numpy.typing import DTypeLike

from vla.errors import DataError

LEVELS = 1 << 16


def matrix(
    column: pa.ChunkedArray, width: int, *, where: str, dtype: DTypeLike = np.float32
) -> Shaped[np.ndarray, "T D"]:
    """A column of numbers or of lists of `width` numbers; missing numbers become NaN, missing rows are an error."""
    array = column.combine_chunks()
    if _is_list(array.type):
        lengths = pc.unique(pc.list_value_length(array)).to_pylist()
        if lengths not in ([width], []):
            raise DataError(
                f"{where}: expected {width} numbers in each row, found rows of {lengths}. Repair the dataset."
            )
        array = array.flatten()
    elif width != 1:
        raise DataError(f"{where}: expected lists of {width} numbers, found {array.type}. Repair the dataset.")
    return _numbers(array, where).astype(dtype).reshape(len(column), width)


def grids(column: pa.ChunkedArray, size: tuple[int, int], *, where: str) -> Float32[np.ndarray, "N Y X"]:
    """A column of lists of lists, each `size` (rows, columns) numbers; missing ones become NaN."""
    array = column.combine_chunks()
    for length in size:
        if not _is_list(array.type) or pc.unique(pc.list_value_length(array)).to_pylist() not in ([length], []):
            raise DataError(
                f"{where}: expected lists of {size[0]} lists of {size[1]} numbers as declared, found {column.type} of "
                f"other lengths. Repair the dataset."
            )
        array = array.flatten()
    return _numbers(array, where).astype(np.float32).reshape(len(column), *size)


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


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _numbers(array: pa.Array, where: str) -> Shaped[np.ndarray, "M"]:
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
        raise DataError(f"{where}: expected numbers, found {array.type}. Correct data.columns.")
    return array.to_numpy(zero_copy_only=False)
