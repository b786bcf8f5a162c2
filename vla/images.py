"""Images that lie encoded in a column of a table, one file per row.

A PNG image carries checksums, and comparing them costs 1 to 2.5 % of decoding it: it is done always, so that a flipped
byte is never taken for a pixel. A JPEG image carries none; only its end is looked for, and what the decoder minds.
"""

import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64, UInt8
from PIL import Image

from vla.errors import DataError

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
JPEG_END, TAIL = b"\xff\xd9", 1024
"""The end marker, and how many bytes some cameras write after it."""
COLOUR = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes of 8 bits and less, which become RGB without loss of range."""


def decode_images(
    column: pa.ChunkedArray,
    size: tuple[int, int] | None,
    *,
    where: str,
    steps_N: Int64[np.ndarray, "N"] | None = None,
) -> UInt8[np.ndarray, "N Y X 3"]:
    """Decode a column of image files (`binary`, or a `struct` with the field `bytes`) to RGB.

    Every image must have `size` (rows, columns) or, where that is None, the size of the first one. Raises DataError,
    beginning with `where`, for an image that is missing, damaged, of another size or of more than 8 bits; it says which
    one by `steps_N`, the steps of the rows, or else counts from 0.
    """
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise DataError(
            f"{where}: expected images as binary or struct<bytes, path>, found {column.type}. Correct data.columns."
        )
    frames = None if size is None else np.empty((len(column), *size, 3), dtype=np.uint8)
    for row, data in enumerate(column.to_numpy()):
        place = f"{where}, step {row if steps_N is None else steps_N[row]}"
        if data is None:
            raise DataError(f"{place}: expected an image, found none. Repair the dataset.")
        frame = _decode(data, place)
        if frames is None:
            frames = np.empty((len(column), *frame.shape), dtype=np.uint8)
        if frame.shape != frames.shape[1:]:
            source = "in the first image" if size is None else "declared"
            raise DataError(
                f"{place}: expected {frames.shape[1]} x {frames.shape[2]} pixels as {source}, "
                f"found {frame.shape[0]} x {frame.shape[1]}. Repair the dataset."
            )
        frames[row] = frame
    return np.empty((0, 0, 0, 3), dtype=np.uint8) if frames is None else frames


def damage(data: bytes) -> str:
    """What is wrong with a PNG or JPEG file as far as can be told without decoding it; empty where nothing is."""
    if data.startswith(PNG):
        return _png_damage(data)
    if data.startswith(JPEG):
        return "" if JPEG_END in data[-TAIL:] else "it has no end"
    return "it is neither PNG nor JPEG"


def _png_damage(data: bytes) -> str:
    """PNG: after the signature, parts of length (4 bytes), kind (4), contents and CRC-32 of kind and contents (4)."""
    position, kind = len(PNG), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            return "it has no end"
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            return "it has no end"
        if zlib.crc32(data[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return f"the checksum of its part {kind!r} is wrong"
        position = end + 4
    return ""


def _decode(data: bytes, place: str) -> UInt8[np.ndarray, "Y X 3"]:
    found = damage(data)
    if found:
        raise DataError(f"{place}: expected an image file, found a damaged one: {found}. Repair the dataset.")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=("PNG",) if data.startswith(PNG) else ("JPEG",))
        frame = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises for damage
        raise DataError(f"{place}: expected an image file, found a damaged one: {error}. Repair the dataset.") from None
    if image.mode not in COLOUR:
        raise DataError(f"{place}: expected an image of 8 bits per channel, found {image.mode}. Correct data.columns.")
    return frame
