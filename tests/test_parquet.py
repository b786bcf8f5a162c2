"""Rows of Parquet files: whole columns of row groups in memory, or streamed where they are large."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vla import parquet
from vla.errors import DataError
from vla.parquet import ParquetRows, read_table

ROWS, GROUP = 100, 40
IMAGES = [bytes([number]) * (200 + number) for number in range(ROWS)]
STATES = np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2)


def table(rows: int = ROWS) -> pa.Table:
    images = [{"bytes": image, "path": f"{number}.png"} for number, image in enumerate(IMAGES[:rows])]
    return pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "state": pa.array(STATES[:rows].tolist(), pa.list_(pa.float32())),
            "number": pa.array(range(rows), pa.int64()),
        }
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """100 rows in groups of 40, 40 and 20."""
    pq.write_table(table(), tmp_path / "rows.parquet", row_group_size=GROUP, use_dictionary=False)
    return tmp_path / "rows.parquet"


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images count as large, and are decoded about 5 at a time."""
    monkeypatch.setattr(parquet, "COLUMN_BYTES", 3000)
    monkeypatch.setattr(parquet, "BUFFER_BYTES", 1200)


def spoil(path: Path, group: int, column: int) -> None:
    """Overwrite a column's data of a row group."""
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(column)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset : chunk.data_page_offset + chunk.total_compressed_size] = bytes(
        chunk.total_compressed_size
    )
    path.write_bytes(data)


@pytest.mark.parametrize(("start", "stop"), [(0, 100), (0, 1), (39, 41), (40, 80), (99, 100), (35, 95), (50, 50)])
def test_rows_are_found_in_their_row_groups(path: Path, start: int, stop: int) -> None:
    found = ParquetRows().read(path, start, stop, ("number", "state", "image"))
    assert found.column_names == ["number", "state", "image"]
    assert found.equals(table().select(found.column_names).slice(start, stop - start))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wanted=st.lists(
        st.tuples(
            st.integers(0, ROWS - 1),
            st.integers(0, 30),
            st.lists(st.sampled_from(["image", "state", "number"]), min_size=1, unique=True),
        ),
        max_size=8,
    )
)
def test_streamed_rows_are_those_of_the_file_in_any_order_of_reading(
    path: Path, streaming: None, wanted: list[tuple[int, int, list[str]]]
) -> None:
    rows = ParquetRows()
    for start, count, columns in wanted:
        stop = min(start + count, ROWS)
        assert rows.read(path, start, stop, tuple(columns)).equals(table().select(columns).slice(start, stop - start))


def test_row_groups_begin_where_the_ones_before_end(path: Path, tmp_path: Path) -> None:
    rows = ParquetRows()
    starts = rows.group_starts(path)
    assert starts.dtype == np.int64
    assert starts.tolist() == [0, 40, 80]
    assert rows.count(path) == ROWS
    pq.write_table(table(0), tmp_path / "empty.parquet")
    assert rows.count(tmp_path / "empty.parquet") == 0


def test_reading_on_goes_on_with_the_same_stream_which_holds_little(path: Path, streaming: None) -> None:
    rows = ParquetRows()
    rows.read(path, 0, 4, ("image",))
    (stream,) = rows._streams.values()
    for start in range(4, GROUP, 4):
        rows.read(path, start, start + 4, ("image",))
        assert list(rows._streams.values()) == [stream]
        assert sum(map(len, stream._held)) <= 4 + 5 + 5
    rows.read(path, 0, 4, ("image",))
    assert list(rows._streams.values()) != [stream]


def test_numbers_are_read_without_the_images_and_images_without_the_numbers(path: Path) -> None:
    spoil(path, 1, 0)
    rows = ParquetRows()
    assert rows.read(path, 0, ROWS, ("number", "state")).equals(table().select(["number", "state"]))
    assert rows.read(path, 0, GROUP, ("image",))["image"][3]["path"].as_py() == "3.png"
    with pytest.raises(DataError, match=r"rows\.parquet: expected a complete Parquet file, found one that cannot"):
        rows.read(path, GROUP, GROUP + 1, ("image",))
    spoil(path, 0, 2)
    assert ParquetRows().read(path, 0, GROUP, ("image",)).equals(table().select(["image"]).slice(0, GROUP))


def test_a_column_in_memory_is_not_read_again_with_others(path: Path) -> None:
    rows = ParquetRows()
    rows.read(path, 0, 10, ("number", "state"))
    spoil(path, 0, 3)
    assert rows.read(path, 10, 20, ("image", "number")).equals(table().select(["image", "number"]).slice(10, 10))


def test_memory_is_bounded_by_the_bytes_of_the_columns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1000)
    rows = ParquetRows()
    for start in (0, 45, 85, 3, 60):
        rows.read(path, start, start + 3, ("number", "state"))
        assert rows._cached == sum(column.nbytes for column in rows._columns.values())
        assert rows._cached <= 1000
    rows.read(path, 0, ROWS, ("image", "number"))  # larger than the limit: only what is being read stays
    assert {(group, column) for _, group, column in rows._columns} == {(2, "image"), (2, "number")}


def test_few_files_and_streams_stay_open(tmp_path: Path, streaming: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "OPEN_FILES", 2)
    monkeypatch.setattr(parquet, "OPEN_STREAMS", 2)
    paths = [tmp_path / f"{number}.parquet" for number in range(4)]
    for path in paths:
        pq.write_table(table(), path, use_dictionary=False)
    rows = ParquetRows()
    for start in range(0, 90, 10):
        for path in paths:
            assert rows.read(path, start, start + 3, ("image",)).equals(table().select(["image"]).slice(start, 3))
            assert len(rows._files) <= 2
            assert len(rows._streams) <= 2


def test_a_copy_starts_with_nothing_open(path: Path) -> None:
    rows = ParquetRows()
    found = rows.read(path, 5, 9, ("state",))
    copy: ParquetRows = pickle.loads(pickle.dumps(rows))
    assert not copy._files
    assert copy.read(path, 5, 9, ("state",)).equals(found)


@pytest.mark.parametrize("name", ["a", "a.b"])
def test_a_column_that_another_ones_name_begins_with_is_not_mixed_up_with_it(
    tmp_path: Path, streaming: None, name: str
) -> None:
    path = tmp_path / "dotted.parquet"
    values = {"a": [{"b": 1, "c": 2}] * 300, "a.b": [3] * 300, "a.d": [b"x" * 100] * 300}
    pq.write_table(pa.table(values), path, use_dictionary=False)
    found = ParquetRows().read(path, 7, 9, (name, "a.d"))
    assert found.to_pydict() == {column: values[column][7:9] for column in (name, "a.d")}


def test_a_missing_column_is_named_together_with_the_nearest_one(path: Path) -> None:
    with pytest.raises(
        DataError, match=r"expected the column 'states', found image, state, number\. Did you mean 'state'"
    ):
        ParquetRows().read(path, 0, 1, ("states",))
    with pytest.raises(DataError, match=r"rows\.parquet: expected the columns number, episode, found no episode among"):
        read_table(path, ["number", "episode"])


def test_a_file_with_too_few_rows_is_an_error(path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.parquet: expected at least 101 rows, found 100"):
        ParquetRows().read(path, 99, 101, ("number",))


def test_a_missing_and_a_truncated_file_are_named(path: Path, tmp_path: Path) -> None:
    for read in (lambda path: ParquetRows().count(path), read_table):
        with pytest.raises(DataError, match=r"nowhere\.parquet: expected a Parquet file, found none"):
            read(tmp_path / "nowhere.parquet")
    path.write_bytes(path.read_bytes()[:-50])
    for read in (lambda path: ParquetRows().count(path), read_table):
        with pytest.raises(DataError, match=r"rows\.parquet: expected a complete Parquet file, found one that cannot"):
            read(path)


def test_damage_in_a_streamed_column_is_named(path: Path, streaming: None) -> None:
    spoil(path, 0, 0)
    with pytest.raises(DataError, match=r"rows\.parquet: expected a complete Parquet file, found one that cannot"):
        ParquetRows().read(path, 0, 1, ("image",))


@pytest.mark.parametrize("again", [ROWS, GROUP + 1])
def test_damage_in_a_streamed_column_leaves_the_other_rows_readable(path: Path, streaming: None, again: int) -> None:
    spoil(path, 1, 0)
    rows = ParquetRows()
    rows.read(path, 0, 2, ("image",))
    for _ in range(2):
        with pytest.raises(DataError, match=r"rows\.parquet: expected a complete Parquet file, found one that cannot"):
            rows.read(path, GROUP, again, ("image", "number"))
        assert {group for _, group, _ in rows._streams} <= {0, 2}
        for start, stop in ((2, GROUP), (0, 3), (2 * GROUP, ROWS)):
            assert rows.read(path, start, stop, ("image",)).equals(table().select(["image"]).slice(start, stop - start))
        assert rows.read(path, GROUP, again, ("number",))["number"].to_pylist() == list(range(GROUP, again))


def test_rows_before_the_damage_in_a_streamed_row_group_are_read_after_it_failed(
    tmp_path: Path, streaming: None
) -> None:
    path = tmp_path / "rows.parquet"
    pages = {"data_page_size": 1000, "write_batch_size": 5, "compression": "none", "write_page_checksum": True}
    pq.write_table(table(), path, use_dictionary=False, **pages)
    content = path.read_bytes()
    assert content.count(IMAGES[52]) == 1
    path.write_bytes(content.replace(IMAGES[52], bytes([53]) * len(IMAGES[52])))
    rows = ParquetRows()
    for _ in range(2):
        for start, stop in ((45, 55), (60, 65)):
            with pytest.raises(DataError, match=r"rows\.parquet: .*CRC"):
                rows.read(path, start, stop, ("image",))
        assert not rows._streams
        assert rows.read(path, 20, 40, ("image",)).equals(table().select(["image"]).slice(20, 20))
        rows._streams.clear()


def test_a_row_group_with_fewer_rows_than_the_file_says_is_an_error(path: Path, streaming: None) -> None:
    stream = parquet._Stream(path, parquet._File(pq.ParquetFile(path)), 2, "image")
    with pytest.raises(DataError, match=r"rows\.parquet: image: expected at least 21 rows in the row group, found 20"):
        stream.read(15, 21)


def test_a_file_that_vanished_is_named_when_a_stream_of_it_begins(path: Path, streaming: None) -> None:
    rows = ParquetRows()
    rows.count(path)
    path.unlink()
    with pytest.raises(DataError, match=r"rows\.parquet: expected a Parquet file, found none"):
        rows.read(path, 0, 1, ("image",))


@pytest.mark.parametrize("column", ["image", "number"])
def test_a_flipped_byte_is_found_where_the_file_has_checksums(tmp_path: Path, streaming: None, column: str) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(table(), path, use_dictionary=False, compression="none", write_page_checksum=True)
    place = pq.ParquetFile(path).metadata.row_group(0).column({"image": 0, "number": 3}[column])
    data = bytearray(path.read_bytes())
    data[place.data_page_offset + place.total_compressed_size - 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"rows\.parquet: .*CRC"):
        ParquetRows().read(path, 0, ROWS, (column,))
