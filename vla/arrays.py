"""Parquet columns of numbers, and of lists of them, as arrays."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Shaped
from numpy.typing import DTypeLike

from vla.errors import DataError


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


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _numbers(array: pa.Array, where: str) -> Shaped[np.ndarray, "M"]:
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
        raise DataError(f"{where}: expected numbers, found {array.type}. Correct data.columns.")
    return array.to_numpy(zero_copy_only=False)
