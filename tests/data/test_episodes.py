import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla.data.episodes import FOREVER, SCHEMA, EpisodeTable
from vla.errors import DataError

ROW = {"source": "near", "content": "c", "length": 5, "supervised": 5, "blocks": [0], "split": "train", "reason": ""}


def write(path, rows, *, at_once: int = 2):
    """Rows in several row groups, as a long table has."""
    made = [{"episode_id": number, "uid": 10 * number, "instruction": "wait", **ROW, **row} for number, row in rows]
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for first in range(0, len(made), at_once):
            writer.write_table(pa.Table.from_pylist(made[first : first + at_once], schema=SCHEMA))
    return path


@pytest.fixture
def path(tmp_path):
    rows = [
        (4, {"instruction": "put"}),
        (5, {"source": "far", "supervised": None, "blocks": None}),
        (6, {"split": "validation", "instruction": "never seen"}),
        (8, {"instruction": "give", "length": 7, "supervised": 3, "blocks": [0, 4]}),
        (9, {"split": "quarantined", "reason": "black"}),
    ]
    return write(tmp_path / "episodes.parquet", rows)


def test_a_split_is_read_as_columns(path):
    table = EpisodeTable.read(path, "train")
    assert len(table) == 3
    assert table.episode_id_E.tolist() == [4, 5, 8]
    assert table.uid_E.tolist() == [40, 50, 80]
    assert table.length_E.tolist() == [5, 5, 7]
    assert table.blocks.to_pylist() == [[0], None, [0, 4]]


def test_an_episode_that_was_cut_off_is_supervised_for_ever(path):
    assert EpisodeTable.read(path, "train").supervised_E.tolist() == [5, FOREVER, 3]


def test_texts_are_those_of_the_split_sorted_and_coded(path):
    table = EpisodeTable.read(path, "train")
    assert table.instructions == ("give", "put", "wait")
    assert table.instruction_E.tolist() == [1, 2, 0]
    assert table.sources == ("far", "near")
    assert table.source_E.tolist() == [1, 0, 1]
    assert EpisodeTable.read(path, "validation").instructions == ("never seen",)


def test_a_hundred_thousand_episodes_are_read_without_an_object_for_each(tmp_path):
    count = 100_000
    columns = {
        "episode_id": np.arange(count),
        "uid": np.arange(count),
        "length": np.full(count, 9),
        "supervised": np.full(count, 9),
        "blocks": [[0, 4]] * count,
        "instruction": [f"do {number % 7}" for number in range(count)],
        **{name: [ROW[name]] * count for name in ("source", "content", "split", "reason")},
    }
    path = tmp_path / "episodes.parquet"
    pq.write_table(pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA), path)
    table = EpisodeTable.read(path, "train")
    assert len(table) == count
    assert len(table.instructions) == 7
    assert (table.instruction_E == np.arange(count) % 7).all()


def test_a_split_without_episodes_is_an_error_that_counts_the_others(tmp_path):
    path = write(tmp_path / "episodes.parquet", [(0, {}), (1, {})])
    with pytest.raises(DataError, match=r"expected episodes of split 'validation', found none among 2"):
        EpisodeTable.read(path, "validation")


def test_missing_damaged_and_foreign_tables_are_told_apart(tmp_path):
    path = tmp_path / "episodes.parquet"
    with pytest.raises(DataError, match=r"found none\. Run 'dvc repro validate'"):
        EpisodeTable.read(path, "train")
    path.write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match="expected a Parquet file"):
        EpisodeTable.read(path, "train")
    pq.write_table(pa.table({"episode_id": [1], "length": [2]}), path)
    with pytest.raises(DataError, match=r"expected the columns \['episode_id', .*found \['episode_id', 'length'\]"):
        EpisodeTable.read(path, "train")
