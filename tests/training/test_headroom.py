import pytest

from vla.tracking.journal import Row
from vla.training.headroom import Headroom


def row(step: int, **metrics: float) -> Row:
    return Row(step, float(step), metrics)


def test_what_is_delivered_is_compared_with_what_is_taken_without_waiting():
    # 64 samples/s of which half the time is spent waiting: training alone would take 128.
    found = Headroom.of([row(10, samples_per_s=64.0, data_wait=0.5, loader_samples_per_s=96.0)])
    assert found == Headroom(delivered=96.0, demanded=128.0)
    assert found.ratio == 0.75


def test_intervals_count_by_their_steps():
    rows = [
        row(10, samples_per_s=100.0, data_wait=0.0, loader_samples_per_s=100.0),
        row(10, validation_loss=1.0),
        row(40, samples_per_s=100.0, data_wait=0.0, loader_samples_per_s=300.0),
    ]
    # 10 steps at 100 and 30 at 300 take as long as 40 at 200.
    assert Headroom.of(rows).delivered == pytest.approx(200)


def test_a_training_whose_last_batches_were_made_before_has_no_rate_for_them():
    rows = [
        row(10, samples_per_s=50.0, data_wait=0.0, loader_samples_per_s=100.0),
        row(20, samples_per_s=90.0, data_wait=0.0),
    ]
    assert Headroom.of(rows) == Headroom(100.0, 50.0)
    assert Headroom.of(rows[1:]) is None


def test_the_line_says_what_to_change_only_where_something_must_change():
    assert str(Headroom(960.0, 400.0)) == (
        "loader: delivers 960 samples/s alone, training takes 400 samples/s: headroom 2.40"
    )
    assert "headroom 1.10. Training waits for data: raise execution.prefetch" in str(Headroom(440.0, 400.0))
