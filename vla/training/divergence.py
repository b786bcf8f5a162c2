"""What to tell a person when a step's loss or gradient is not finite: which samples of which rank are to blame."""

import math

from torch import Tensor

from vla.errors import DataError
from vla.training.distributed import Context
from vla.training.feed import Feed

NAMED = 4
"""Samples that a message names."""


def not_finite(context: Context, feed: Feed, error_B: Tensor, *, step: int, found: str) -> DataError:
    """The error for optimizer step `step` (from 0), the same on every rank; every rank calls it.

    `error_B` has the weighted error of each of this rank's samples in the step.
    """
    errors = context.sum(feed.placed(error_B.tolist()))
    guilty = [place for place, error in enumerate(errors) if not math.isfinite(error)]
    more = f" and {len(guilty) - NAMED} more" if len(guilty) > NAMED else ""
    said = "Not finite are the errors of"
    if not guilty:
        guilty = sorted(range(len(errors)), key=lambda place: -errors[place])
        said = "Every sample's own error is finite; the largest are those of"
    names = ", ".join(feed.names(step, guilty[:NAMED]))
    return DataError(
        f"train: expected a finite loss and gradient, found {found} at step {step + 1}. {said} {names}{more}. "
        f"Lower train.optimizer.lr, or look for outliers in the report of validate."
    )
