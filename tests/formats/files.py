"""The files that datasets are made of: images, videos, JSON, Parquet."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FPS = 20
GROUP = 4
"""Frames from one key frame to the next."""


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


def write_video(path: Path, frames: np.ndarray, *, fps: float = FPS, group: int = GROUP) -> None:
    """A video from which the frames come back as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"qp": "0", "g": str(group), "sc_threshold": "0"}
    encode(path, frames, "libx264rgb", pixels="rgb24", given="rgb24", fps=fps, options=options)


def encode(
    path: Path, frames: np.ndarray, codec: str, *, pixels: str, given: str, fps: float = FPS, options: dict[str, str]
) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=round(fps), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=given)))
        container.mux(stream.encode())


def decode(path: Path, *, frames: int | None = None) -> np.ndarray:
    """The first frames of a video (None for all), in order: the plainest way that there is."""
    with av.open(str(path)) as container:
        return np.stack([each.to_ndarray(format="rgb24") for each in islice(container.decode(video=0), frames)])


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def change_info(root: Path, **values: Any) -> None:
    """Set keys of a LeRobot dataset's description; ... takes one out."""
    path = root / "meta/info.json"
    kept = {**json.loads(path.read_text()), **values}
    write_json(path, {key: value for key, value in kept.items() if value is not ...})


def change_feature(root: Path, column: str, **values: Any) -> None:
    """Set keys of a column's entry in a LeRobot dataset's description; ... takes one out."""
    features = json.loads((root / "meta/info.json").read_text())["features"]
    kept = {**features.get(column, {}), **values}
    features[column] = {key: value for key, value in kept.items() if value is not ...}
    change_info(root, features=features)


def change_lines(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change every row of a file of JSON lines."""
    write_lines(path, [change(json.loads(line)) for line in path.read_text().splitlines()])


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    """Change the rows of a Parquet file."""
    pq.write_table(change(pq.read_table(path)), path, **options)


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_table(path: Path, rows: pa.Table, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, **options)


def spoil_row_group(path: Path, group: int) -> None:
    """Overwrite all that a row group holds."""
    metadata = pq.ParquetFile(path).metadata.row_group(group)
    content = bytearray(path.read_bytes())
    for number in range(metadata.num_columns):
        column = metadata.column(number)
        start = column.dictionary_page_offset or column.data_page_offset
        content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)


def replace(table: pa.Table, column: str, values: Any) -> pa.Table:
    """The table with other values in a column."""
    place = table.schema.names.index(column)
    return table.set_column(place, column, values)
