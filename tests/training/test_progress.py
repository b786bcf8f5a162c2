import logging
from dataclasses import replace

import pytest
import torch
from batches import a_spec, fake_batch

from vla.tracking.journal import Journal
from vla.training import progress
from vla.training.distributed import single
from vla.training.self_checks import SelfChecks
from vla.training.state_directory import StateDirectory

BATCH = fake_batch(a_spec(), 2)
SPEEDS = {"samples_per_s": 3.0, "steps_per_s": 0.1, "data_wait": 0.25}
QUIET = replace(BATCH, actions_BPHA=torch.zeros_like(BATCH.actions_BPHA))
"""A batch whose actions are all 0."""


def lines_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == progress.log.name]


def test_rows_are_shown_as_they_come_and_the_last_ones_at_the_end(tmp_path, caplog):
    with caplog.at_level(logging.INFO), Journal(tmp_path / "metrics.jsonl") as journal:
        with progress.shown(StateDirectory(tmp_path), total_steps=20):
            journal.append(10, {"lr": 1e-3, "loss": 0.123456, "loss_time/0": 1.0} | SPEEDS)
            journal.append(20, {"loss": 0.1})
        assert lines_of(caplog) == [
            "step 10/20  loss 0.1235  lr 0.001  3 samples/s  waiting for data 25%  left 0:01:40",
            "step 20/20  loss 0.1",
        ]


def test_a_resume_shows_no_row_of_the_earlier_process_again(tmp_path, caplog):
    with caplog.at_level(logging.INFO), Journal(tmp_path / "metrics.jsonl") as journal:
        for step in (10, 20):
            journal.append(step, {"loss": 0.5})
        with progress.shown(StateDirectory(tmp_path), total_steps=30):
            journal.truncate_after(10)
            for step in (20, 30):
                journal.append(step, {"loss": 0.5})
        assert lines_of(caplog) == ["step 30/30  loss 0.5"]


def test_the_self_checks_of_this_start_are_shown_and_not_those_of_an_earlier_one(tmp_path, caplog):
    directory, checks = StateDirectory(tmp_path), SelfChecks(single("cpu"))
    checks.first_loss_is_plausible(1.5, [QUIET])
    checks.write(directory.self_checks, step=0)
    with caplog.at_level(logging.INFO):
        with progress.shown(directory, total_steps=1):
            pass
        assert lines_of(caplog) == []
        with progress.shown(directory, total_steps=1):
            checks.first_loss_is_plausible(1e6, [QUIET])
            checks.write(directory.self_checks, step=0)
    assert [record.levelname for record in caplog.records if record.name == progress.log.name] == ["INFO", "WARNING"]
    assert lines_of(caplog)[0] == "self-check: first loss: 1.5, where predicting nothing has 1"


@pytest.mark.parametrize(("rate", "warnings"), [(30.0, 1), (300.0, 0)])
def test_a_loader_that_is_too_slow_is_told_of_once_while_there_is_time(tmp_path, caplog, rate, warnings):
    with caplog.at_level(logging.WARNING), Journal(tmp_path / "metrics.jsonl") as journal:
        with progress.shown(StateDirectory(tmp_path), total_steps=90):
            for step in (10, 20, 30):
                journal.append(step, {"samples_per_s": 30.0, "data_wait": 0.0, "loader_samples_per_s": rate})
        assert len([text for text in lines_of(caplog) if "headroom 1.00" in text]) == warnings
