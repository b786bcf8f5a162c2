"""Images that lie encoded in a column of a table, one file per row."""

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import UInt8
from PIL import Image

from vla.errors import DataError


def decode_images(column: pa.ChunkedArray, size: tuple[int, int] | None, *, where: str) -> UInt8[np.ndarray, "N Y X 3"]:
    """Decode a column of image files (`binary`, or `struct` with a field `bytes`) to RGB.

    Every image must have `size` (rows, columns), or where that is None, the size of the first one. Raises DataError,
    beginning with `where`, for a missing, damaged or differently sized image.
    """
    frames = None if size is None else np.empty((len(column), *size, 3), dtype=np.uint8)
    for index, data in enumerate(_files(column, where)):
        if data is None:
            raise DataError(f"{where}, step {index}: expected an image, found none. Repair the dataset.")
        try:
            with Image.open(io.BytesIO(data)) as image:
                frame = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:  # PIL raises all three for damaged files
            raise DataError(f"{where}, step {index}: expected an image file, {error}. Repair the dataset.") from None
        if frames is None:
            frames = np.empty((len(column), *frame.shape), dtype=np.uint8)
        if frame.shape != frames.shape[1:]:
            raise DataError(
                f"{where}, step {index}: expected {frames.shape[1]} x {frames.shape[2]} pixels as declared, "
                f"found {frame.shape[0]} x {frame.shape[1]}. Repair the dataset."
            )
        frames[index] = frame
    return np.empty((0, 0, 0, 3), dtype=np.uint8) if frames is None else frames


def _files(column: pa.ChunkedArray, where: str) -> Iterator[bytes | None]:
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise DataError(
            f"{where}: expected images as binary or struct<bytes, path>, found {column.type}. Correct data.columns."
        )
    yield from column.to_pylist()
