import logging

from vla.tracking.journal import Journal
from vla.training import progress


def lines_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == progress.log.name]


def test_rows_are_shown_as_they_come_and_the_last_ones_at_the_end(tmp_path, caplog):
    with caplog.at_level(logging.INFO), Journal(tmp_path / "metrics.jsonl") as journal:
        with progress.shown(journal.path, total_steps=20):
            journal.append(10, {"lr": 1e-3, "loss": 0.123456})
            journal.append(20, {"loss": 0.1})
        assert lines_of(caplog) == ["step 10/20  loss 0.1235  lr 0.001", "step 20/20  loss 0.1"]


def test_a_resume_shows_no_row_of_the_earlier_process_again(tmp_path, caplog):
    with caplog.at_level(logging.INFO), Journal(tmp_path / "metrics.jsonl") as journal:
        for step in (10, 20):
            journal.append(step, {"loss": 0.5})
        with progress.shown(journal.path, total_steps=30):
            journal.truncate_after(10)
            for step in (20, 30):
                journal.append(step, {"loss": 0.5})
        assert lines_of(caplog) == ["step 30/30  loss 0.5"]
