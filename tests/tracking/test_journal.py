import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interruptions import files_limited

from vla.errors import DataError
from vla.tracking.journal import Journal, Tail, read


def steps_at(path: Path) -> list[int]:
    return [row.step for row in read(path)]


def filled(path: Path, *steps: int) -> Path:
    with Journal(path) as journal:
        for step in steps:
            journal.append(step, {"loss": 1.0 / step})
    return path


def test_rows_come_back_as_written_in_order(tmp_path):
    path = filled(tmp_path / "folder" / "metrics.jsonl", 1, 2, 4)
    rows = list(read(path))
    assert [(row.step, dict(row.metrics)) for row in rows] == [
        (1, {"loss": 1.0}),
        (2, {"loss": 0.5}),
        (4, {"loss": 0.25}),
    ]
    assert json.loads(path.read_text().splitlines()[0]).keys() == {"step", "seconds", "metrics"}


def test_a_missing_journal_has_no_rows(tmp_path):
    assert steps_at(tmp_path / "none.jsonl") == []


@settings(deadline=None, max_examples=50)
@given(cut=st.integers(min_value=0))
def test_cut_at_any_byte_the_complete_rows_stay_and_the_next_row_follows_them(tmp_path_factory, cut):
    path = filled(tmp_path_factory.mktemp("journal") / "metrics.jsonl", 1, 2, 3)
    whole = path.read_bytes()
    kept = whole[: cut % (len(whole) + 1)]
    path.write_bytes(kept)
    complete = kept.count(b"\n")
    assert steps_at(path) == [1, 2, 3][:complete]
    with Journal(path) as journal:
        journal.append(9, {"loss": 0.0})
    assert steps_at(path) == [*[1, 2, 3][:complete], 9]


def test_a_full_disk_is_an_error_with_the_file_s_name_and_tears_the_last_row_alone(tmp_path):
    path = filled(tmp_path / "metrics.jsonl", 1, 2)
    with Journal(path) as journal, files_limited(path.stat().st_size + 10):
        for _ in range(2):
            with pytest.raises(OSError, match=r"metrics\.jsonl"):
                journal.append(3, {"loss": 0.1})
    assert not path.read_bytes().endswith(b"\n")
    assert steps_at(filled(path, 9)) == [1, 2, 9]


def test_a_resume_removes_the_rows_after_its_checkpoint_and_goes_on(tmp_path):
    path = filled(tmp_path / "metrics.jsonl", 10, 20, 30)
    with Journal(path) as journal:
        journal.truncate_after(20)
        assert steps_at(path) == [10, 20]
        journal.append(25, {"loss": 0.1})
    assert steps_at(path) == [10, 20, 25]


def test_truncating_to_a_step_before_all_rows_empties_the_journal(tmp_path):
    with Journal(filled(tmp_path / "metrics.jsonl", 10, 20)) as journal:
        journal.truncate_after(0)
    assert steps_at(tmp_path / "metrics.jsonl") == []


def test_seconds_go_on_where_the_kept_rows_ended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"metrics": {}, "seconds": 100.0, "step": 1}\n{"metrics": {}, "seconds": 200.0, "step": 2}\n')
    with Journal(path) as journal:
        journal.truncate_after(1)
        journal.append(2, {})
    assert 100.0 <= list(read(path))[-1].seconds < 160.0


def test_a_tail_gives_each_complete_row_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.new_rows() == []
    with Journal(path) as journal:
        journal.append(1, {"loss": 1.0})
        journal.append(2, {"loss": 1.0})
        assert [row.step for row in tail.new_rows()] == [1, 2]
        journal.append(3, {"loss": 1.0})
        assert [row.step for row in tail.new_rows()] == [3]
        assert tail.new_rows() == []


def test_a_tail_waits_for_the_end_of_a_half_written_row(tmp_path):
    path = filled(tmp_path / "metrics.jsonl", 1)
    tail = Tail(path)
    tail.new_rows()
    row = b'{"metrics": {}, "seconds": 1.0, "step": 2}\n'
    with path.open("ab", buffering=0) as stream:
        stream.write(row[:10])
        assert tail.new_rows() == []
        stream.write(row[10:])
    assert [row.step for row in tail.new_rows()] == [2]


def test_a_tail_reads_a_truncated_journal_from_its_start(tmp_path):
    path = filled(tmp_path / "metrics.jsonl", 1, 2, 3)
    tail = Tail(path)
    tail.new_rows()
    with Journal(path) as journal:
        journal.truncate_after(1)
        journal.append(2, {})
    assert [row.step for row in tail.new_rows()] == [1, 2]


def test_a_tail_reads_a_journal_of_the_same_inode_that_is_another_from_its_start(tmp_path):
    path = filled(tmp_path / "metrics.jsonl", 1, 2)
    tail = Tail(path)
    tail.new_rows()
    path.write_bytes(b"")
    assert tail.new_rows() == []
    path.write_text(
        "".join(f'{{"metrics": {{"validation_loss": 0.5}}, "seconds": 1.0, "step": {step}}}\n' for step in range(9))
    )
    assert [row.step for row in tail.new_rows()] == list(range(9))
    path.write_text(
        "".join(
            f'{{"metrics": {{"a_longer_name_than_before": 0.5}}, "seconds": 1.0, "step": {step}}}\n'
            for step in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
        )
    )
    assert [row.step for row in tail.new_rows()] == list(range(1, 11))


def test_a_line_that_is_no_row_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl.*step, seconds and metrics"):
        list(read(path))
