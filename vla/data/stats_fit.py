"""Whether statistics that a policy was trained with fit other data, dimension by dimension.

Normalisation with foreign statistics fails silently: values far outside what the network has seen, differences too
small for it to resolve, or a dimension that it was trained to take for a constant. The limits below are chosen so that
a train split passes with its own statistics unless a few of its values lie far from all others, which is worth knowing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from vla.data.norm_stats import ACTIONS, DELTA, RECORDED, Counted
from vla.normalization import Method, Normalize, Quantity, Statistics

Verdict = Literal["fits", "outside", "wide", "constant"]
LIMIT: dict[Method, float] = {"min_max": 1.0, "quantile": 1.0, "mean_std": 3.0}
"""Normalised values up to this size are what a policy was trained on, but for a few."""
OUTSIDE, LARGEST = 0.05, 10.0
"""A dimension is outside with a larger share of values beyond the limit, or one value beyond so many limits."""
WIDE = 0.1
"""The learned range is too wide for data that spread over less than this part of it."""


@dataclass(frozen=True, slots=True)
class DimensionFit:
    """What normalisation by the learned statistics makes of one dimension of the data; raw units but for `largest`."""

    name: str
    verdict: Verdict
    learned: tuple[float, float]
    """The values that become - limit and + limit."""
    data: tuple[float, float, float, float]
    """Minimum, 1 % and 99 % quantile, maximum."""
    outside: float
    """Share of the values that become larger than the limit."""
    largest: float
    """The largest absolute normalised value."""
    shift: float | None
    """Mean of the data less the learned one, in learned standard deviations; None where those are 0."""


def compare(
    names: Sequence[str],
    *,
    learned: Statistics,
    normalize: Normalize,
    found: Statistics,
    outside_D: Float64[np.ndarray, "D"],
) -> list[DimensionFit]:
    """The fit of each dimension; `normalize` is made of `learned`, `found` are the statistics of the data."""
    limit = LIMIT[normalize.method]
    data_D4 = np.array([found.min, found.q01, found.q99, found.max], dtype=np.float64).T
    distance_D = np.maximum(normalize.offset - data_D4[:, 0], data_D4[:, 3] - normalize.offset)
    largest_D = np.where(normalize.degenerate, 0.0, distance_D / normalize.divisor)
    reach_D = np.where(normalize.degenerate, 0.0, limit * normalize.divisor)
    fits = []
    for dim, name in enumerate(names):
        low, low_most, high_most, high = data_D4[dim].tolist()
        if normalize.degenerate[dim]:
            verdict: Verdict = "constant" if distance_D[dim] > normalize.threshold[dim] else "fits"
        elif outside_D[dim] > OUTSIDE or largest_D[dim] > LARGEST * limit:
            verdict = "outside"
        else:
            verdict = "wide" if high_most - low_most < WIDE * 2 * reach_D[dim] else "fits"
        centre, reach, std = float(normalize.offset[dim]), float(reach_D[dim]), float(learned.std[dim])
        fits.append(
            DimensionFit(
                name=name,
                verdict=verdict,
                learned=(centre - reach, centre + reach),
                data=(low, low_most, high_most, high),
                outside=float(outside_D[dim]),
                largest=float(largest_D[dim]),
                shift=float(found.mean[dim] - learned.mean[dim]) / std if std else None,
            )
        )
    return fits


def share_outside(
    counted: Counted, *, state: Normalize, actions: Normalize
) -> dict[Quantity, Float64[np.ndarray, "D"]]:
    """Share of the values of each dimension that become larger than the limit of the method."""
    base, delta = ACTIONS if ACTIONS in counted.dims else RECORDED, counted.delta
    beyond: dict[str, Float64[np.ndarray, D]] = {"state": np.zeros(state.dims), base: np.zeros(actions.dims)}
    beyond[DELTA] = np.zeros(actions.dims)
    total = dict.fromkeys(beyond, 0)
    for name, rows in counted.scan():
        if name in total:
            values_ND = rows.values_ND
            if name == DELTA:
                # As whole actions, of which the other dimensions are not looked at.
                values_ND = np.zeros((len(rows.values_ND), counted.dims[RECORDED]), dtype=np.float32)
                values_ND[:, delta.actions_K] = rows.values_ND
            normalize = state if name == "state" else actions
            larger_ND = np.abs(normalize.forward(values_ND[:, : normalize.dims])) > LIMIT[normalize.method]
            beyond[name] += (larger_ND * rows.weight_N[:, None]).sum(axis=0)
            total[name] += int(rows.weight_N.sum())
    shares = {name: sums / max(total[name], 1) for name, sums in beyond.items()}
    is_delta = np.isin(np.arange(actions.dims), delta.actions_K)
    return {"state": shares["state"], "actions": np.where(is_delta, shares[DELTA], shares[base])}
