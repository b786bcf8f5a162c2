"""The numbers and the table that a training leaves."""

from vla.tracking.journal import Row
from vla.training.export import curve, numbers_of

ROWS = [
    Row(2, 1.0, {"loss": 3.0, "lr": 0.1}),
    Row(4, 2.0, {"loss": 2.0, "lr": 0.1}),
    Row(4, 2.5, {"validation_loss": 2.5, "validation_error": 0.5, "validation_s": 0.1}),
    Row(5, 3.0, {"validation_loss": 2.0, "validation_error": 0.25, "validation_s": 0.1}),
    Row(6, 4.0, {"loss": 1.0, "lr": 0.1}),
    Row(7, 5.0, {"validation_loss": 9.0, "validation_error": 0.75, "validation_s": 0.1}),
    Row(7, 5.0, {"samples_per_s": 8.0}),
]


def test_the_numbers_are_those_of_the_weights_in_the_bundle_and_not_of_later_ones():
    assert numbers_of(ROWS, step=5) == {"loss": 2.0, "validation_loss": 2.0, "validation_error": 0.25}
    assert numbers_of(ROWS, step=7) == {"loss": 1.0, "validation_loss": 9.0, "validation_error": 0.75}
    assert numbers_of(ROWS, step=3) == {"loss": 3.0}


def test_the_table_has_a_row_for_every_step_with_a_loss_or_a_validation():
    assert curve(ROWS) == [
        {"step": 2, "loss": 3.0},
        {"step": 4, "loss": 2.0, "validation_loss": 2.5, "validation_error": 0.5},
        {"step": 5, "validation_loss": 2.0, "validation_error": 0.25},
        {"step": 6, "loss": 1.0},
        {"step": 7, "validation_loss": 9.0, "validation_error": 0.75},
    ]
