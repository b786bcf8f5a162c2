"""A bundle's normalisation said by statistics alone, for projects that know less ways to use them."""

import numpy as np

from vla.models.checkpoints.settings import Layout
from vla.normalization import ALWAYS, EPSILON, OPTIONAL, Method, Normalize, Statistics


def expressed(stats: Statistics, normalize: Normalize, method: Method, layout: Layout) -> Statistics:
    """Statistics by which a project's plain `method` is the map that `normalize` is, to 1e-8 of its divisor.

    They are the given ones, but for dimensions that stay raw, and for all where the bundle uses another method or
    formula, such as ours with its constant dimensions: there the project gets the map's offset and divisor from them.
    """
    other = normalize.method != method or normalize.formula != layout
    changed_D = normalize.raw | other
    if not changed_D.any() or normalize.raw.all():
        return stats
    offset_D, divisor_D, epsilon = normalize.offset, normalize.divisor, EPSILON[layout]
    low_D = offset_D - divisor_D
    high_D = low_D + np.maximum(2 * divisor_D - (epsilon if layout == "openpi" else 0.0), 0.0)
    std_D = np.maximum(divisor_D - epsilon, 0.0)
    said = {"mean": offset_D, "std": std_D, "min": low_D, "max": high_D, "q01": low_D, "q50": offset_D, "q99": high_D}
    arrays = {}
    for name in (*ALWAYS, *OPTIONAL):
        own_D = getattr(stats, name)
        if own_D is not None:
            arrays[name] = np.where(changed_D, said[name], own_D)
        elif changed_D.all():
            arrays[name] = said[name]
    return Statistics(**arrays, count=stats.count)
