"""Images that lie encoded in a column of a table."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vla.errors import DataError
from vla.images import damage, decode_images

SHARED = Path(__file__).parents[1] / "../shared/data"
NOISE = np.random.default_rng(0).integers(0, 256, (3, 12, 20, 3), dtype=np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format=kind, **options)
    return stream.getvalue()


def column(values: list[bytes | None], kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind or pa.binary())])


PNGS = [encoded(image) for image in NOISE]


def as_struct(values: list[bytes | None]) -> pa.ChunkedArray:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.chunked_array([pa.array([{"bytes": value, "path": "frame.png"} for value in values], kind)])


@pytest.mark.parametrize("made", [column, as_struct, lambda values: column(values, pa.large_binary())])
@pytest.mark.parametrize("size", [(12, 20), None])
def test_images_come_back_exactly_from_every_kind_of_column(made: Any, size: tuple[int, int] | None) -> None:
    frames = decode_images(made(PNGS), size, where="w")
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, NOISE)
    np.testing.assert_array_equal(decode_images(made(PNGS).slice(1, 2), size, where="w"), NOISE[1:])
    np.testing.assert_array_equal(
        decode_images(made(PNGS).take(pa.array([2, 0, 2])), size, where="w"), NOISE[[2, 0, 2]]
    )


def test_a_column_of_several_pieces_is_read_in_order() -> None:
    pieces = pa.chunked_array([pa.array(PNGS[:1]), pa.array([], pa.binary()), pa.array(PNGS[1:])])
    np.testing.assert_array_equal(decode_images(pieces, None, where="w"), NOISE)


def test_no_images_are_no_error() -> None:
    assert decode_images(column([]), (12, 20), where="w").shape == (0, 12, 20, 3)
    assert decode_images(column([]), None, where="w").shape[0] == 0


def test_jpeg_is_close_to_what_was_encoded() -> None:
    smooth = np.broadcast_to(np.arange(0, 240, 12, dtype=np.uint8)[None, :, None], (12, 20, 3)).copy()
    frames = decode_images(column([encoded(smooth, "JPEG", quality=95)]), (12, 20), where="w")
    np.testing.assert_allclose(frames[0].astype(int), smooth, atol=4)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_other_colours_become_rgb(mode: str) -> None:
    image = Image.fromarray(NOISE[0]).convert(mode)
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode_images(column([stream.getvalue()]), None, where="w")[0], expected)


def test_more_than_8_bits_are_not_cut_off_silently() -> None:
    depth = np.arange(240, dtype=np.uint16).reshape(12, 20) * 100
    with pytest.raises(DataError, match="w, step 0: expected an image of 8 bits per channel, found I;16"):
        decode_images(column([encoded(depth)]), None, where="w")


@pytest.mark.parametrize("made", [column, as_struct])
def test_a_missing_image_is_an_error_with_its_step(made: Any) -> None:
    with pytest.raises(DataError, match="Episode 3, cam, step 1: expected an image, found none"):
        decode_images(made([PNGS[0], None]), None, where="Episode 3, cam")
    with pytest.raises(DataError, match="step 0: expected an image, found none"):
        decode_images(made([None]), (12, 20), where="w")


def test_a_missing_row_of_a_struct_is_an_error_with_its_step() -> None:
    whole = as_struct(PNGS).combine_chunks()
    holed = pa.StructArray.from_arrays(whole.flatten(), names=["bytes", "path"], mask=pa.array([False, True, False]))
    with pytest.raises(DataError, match="step 1: expected an image, found none"):
        decode_images(pa.chunked_array([holed]), None, where="w")


def test_another_size_is_an_error_with_its_step() -> None:
    odd = encoded(NOISE[0, :8])
    with pytest.raises(DataError, match="step 1: expected 12 x 20 pixels as declared, found 8 x 20"):
        decode_images(column([PNGS[0], odd]), (12, 20), where="w")
    with pytest.raises(DataError, match="step 1: expected 12 x 20 pixels as in the first image, found 8 x 20"):
        decode_images(column([PNGS[0], odd]), None, where="w")


@pytest.mark.parametrize("values", [pa.array([1.0]), pa.array(["text"]), pa.array([{"path": "frame.png"}])])
def test_a_column_of_something_else_is_an_error(values: pa.Array) -> None:
    with pytest.raises(DataError, match=r"w: expected images as binary or struct<bytes, path>, found .* data\.columns"):
        decode_images(pa.chunked_array([values]), None, where="w")


def test_every_flipped_bit_of_a_png_is_found() -> None:
    png = encoded(NOISE[0, :3, :3])
    assert damage(png) == ""
    for position in range(8 * len(png)):
        flipped = bytearray(png)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(DataError, match="w, step 0: expected an image file, found a damaged one"):
            decode_images(column([bytes(flipped)]), None, where="w")


def test_a_damaged_png_says_what_is_wrong() -> None:
    flipped = bytearray(PNGS[0])
    flipped[PNGS[0].index(b"IDAT") + 9] ^= 1
    assert damage(bytes(flipped)) == "the checksum of its part b'IDAT' is wrong"
    assert damage(PNGS[0][:-3]) == damage(PNGS[0][:40]) == "it has no end"
    assert damage(b"no image") == damage(b"") == "it is neither PNG nor JPEG"


def test_damaged_jpegs_are_read_or_an_error_and_nothing_else() -> None:
    jpeg = encoded(NOISE[0], "JPEG")
    assert damage(jpeg) == ""
    assert damage(jpeg[:-10]) == "it has no end"
    assert damage(jpeg + bytes(100)) == ""
    for position in range(len(jpeg)):
        flipped = bytearray(jpeg)
        flipped[position] ^= 0xFF
        try:
            decode_images(column([bytes(flipped)]), (12, 20), where="w")
        except DataError as error:
            assert "w, step 0: expected" in str(error)  # noqa: PT017  # most flips go unnoticed


@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference datasets are not on this machine")
def test_recorded_images_are_intact() -> None:
    table = pq.read_table(SHARED / "bridge_stepwise/part-00000.parquet", columns=["image_1"])
    assert not any(damage(data) for data in table["image_1"].to_pylist())
    assert decode_images(table["image_1"], (64, 64), where="w").shape == (150, 64, 64, 3)
