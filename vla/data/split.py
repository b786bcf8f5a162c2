"""Which episodes are held out for validation: a pure function of what the episodes hold.

The order is a hash of an episode's numbers, not of its place. So a dataset that was filtered, renumbered or extended
keeps the side of every episode as far as the counts allow, recordings that occur twice fall on one side, and nobody
can train on what another run validates on by reordering files.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from vla import keyed


def held_out(instructions: Sequence[str], contents: Sequence[str], *, holdout: float) -> Bool[np.ndarray, "E"]:
    """Which episodes belong to validation, given each one's instruction and the digest of its contents.

    In each stratum of n episodes the round(holdout * n) with the smallest hash are held out, overall at least one
    unless `holdout` is 0. Episodes of equal contents follow the first of them that is held out.
    """
    order_E = np.array([keyed.uid("split", content) for content in contents], dtype=np.int64)
    chosen_E = np.zeros(len(order_E), dtype=bool)
    if holdout == 0 or not len(order_E):
        return chosen_E
    for members in _strata(instructions, holdout):
        count = round(holdout * len(members))
        chosen_E[members[np.argsort(order_E[members], kind="stable")[:count]]] = True
    if not chosen_E.any():
        chosen_E[np.argmin(order_E)] = True
    return np.isin(order_E, order_E[chosen_E])


def held_out_by_name(sources: Sequence[str], contents: Sequence[str], *, name: str) -> Bool[np.ndarray, "E"]:
    """The same for a dataset of the mixture that is held out as a whole, and with it every copy of its episodes."""
    held = {content for source, content in zip(sources, contents, strict=True) if source == name}
    return np.array([content in held for content in contents], dtype=bool)


def _strata(instructions: Sequence[str], holdout: float) -> Iterator[Int64[np.ndarray, " n"]]:
    """Indices of each task's episodes; tasks too small to give one to validation form a stratum together."""
    task_E = pa.array(instructions, pa.string()).dictionary_encode().indices.to_numpy()
    counts = np.bincount(task_E)
    is_large = counts * holdout >= 1
    by_task = np.split(np.argsort(task_E, kind="stable"), np.cumsum(counts)[:-1])
    yield from (by_task[task] for task in np.flatnonzero(is_large))
    if not is_large.all():
        yield np.flatnonzero(~is_large[task_E])
