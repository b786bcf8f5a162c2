import pytest

from vla.tracking.journal import Row
from vla.training.headroom import Headroom


def row(step: int, **metrics: float) -> Row:
    return Row(step, float(step), metrics)


def test_what_is_delivered_is_compared_with_what_is_taken_without_waiting():
    # 64 samples/s of which half the time is spent waiting: training alone would take 128.
    found = Headroom.of([row(10, samples_per_s=64.0, data_wait=0.5, loader_samples_per_s=96.0)])
    assert found == Headroom(delivered=96.0, demanded=128.0, waited=0.5)
    assert found.ratio == 0.75


def test_intervals_count_by_their_steps_and_the_first_one_not_at_all():
    rows = [
        row(5, samples_per_s=1.0, data_wait=0.9, loader_samples_per_s=1.0),
        row(15, samples_per_s=100.0, data_wait=0.0, loader_samples_per_s=100.0),
        row(15, validation_loss=1.0),
        row(45, samples_per_s=100.0, data_wait=0.4, loader_samples_per_s=300.0),
    ]
    # 10 steps at 100 and 30 at 300 take as long as 40 at 200; 30 of 40 steps waited for 0.4 of their time.
    found = Headroom.of(rows)
    assert found.delivered == pytest.approx(200)
    assert found.waited == pytest.approx(0.3)
    assert found.demanded == pytest.approx(100 / 0.7)


def test_a_training_whose_last_batches_were_made_before_has_no_rate_for_them():
    rows = [
        row(10, samples_per_s=50.0, data_wait=0.0, loader_samples_per_s=100.0),
        row(20, samples_per_s=90.0, data_wait=0.0),
    ]
    assert Headroom.of(rows) == Headroom(100.0, 50.0, 0.0)
    assert Headroom.of(rows[1:]) is None


def test_the_line_says_what_to_change_only_where_something_must_change():
    assert str(Headroom(960.0, 400.0, 0.01)) == (
        "loader: delivers 960 samples/s alone, training takes 400 samples/s: headroom 2.40, 1% of the time spent "
        "waiting for data"
    )
    assert "headroom 1.10, 3% of the time spent waiting for data. For more, raise" in str(Headroom(440.0, 400.0, 0.03))
