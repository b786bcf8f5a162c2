"""What the episodes of a LeRobot dataset are about: how long they are, and the texts of their tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from vla.errors import DataError


@dataclass(frozen=True, slots=True)
class EpisodeList:
    """What the metadata say about each episode, by ascending number; memory is that of Arrow, not of Python objects."""

    where: str
    """The file or folder that says it."""
    ids_E: Int64[np.ndarray, "E"]
    lengths_E: Int64[np.ndarray, "E"]
    tasks: pa.ListArray
    """The texts of each episode's tasks."""

    def row(self, episode_id: int) -> int:
        """Row of an episode; raises DataError when there is none."""
        row = int(np.searchsorted(self.ids_E, episode_id))
        if row == len(self.ids_E) or self.ids_E[row] != episode_id:
            raise DataError(f"{self.where}: expected one of {len(self.ids_E)} episodes, found {episode_id}.")
        return row

    def only_tasks(self) -> tuple[Int64[np.ndarray, "E"], pa.StringArray]:
        """The number of tasks of each episode, and the text where it is one, else null."""
        counts_E = pc.fill_null(pc.list_value_length(self.tasks), 0).to_numpy().astype(np.int64)
        first_E = np.cumsum(counts_E) - counts_E
        return counts_E, self.tasks.flatten().take(pa.array(first_E, mask=counts_E != 1))

    def check_known(self, texts: Mapping[int, str], where: str) -> None:
        """Raises DataError when an episode has a task that the table of tasks at `where` lacks."""
        counts_E = pc.fill_null(pc.list_value_length(self.tasks), 0).to_numpy()
        named = self.tasks.flatten()
        known = pc.is_in(named, value_set=pa.array(texts.values(), pa.string()))
        unknown = np.flatnonzero(~known.to_numpy(zero_copy_only=False))
        if len(unknown):
            row = np.searchsorted(np.cumsum(counts_E), unknown[0], side="right")
            raise DataError(
                f"{self.where}: episode {self.ids_E[row]}: expected tasks of {where}, found "
                f"{named[unknown[0]].as_py()!r}. Repair the dataset."
            )


def texts_of(
    values: pa.ChunkedArray, rows: Sequence[int], ids: Sequence[int], tasks: Mapping[int, str], *, where: str
) -> list[str]:
    """What a column of a data file says at the first rows of the episodes `ids`: text, or the index of a task."""
    if max(rows) >= len(values):
        raise DataError(
            f"{where}: episode {ids[-1]}: expected more than {max(rows)} rows, found {len(values)}: the file is "
            f"incomplete. Download the dataset again."
        )
    chosen = values.take(pa.array(rows))
    if pa.types.is_string(chosen.type) or pa.types.is_large_string(chosen.type):
        return [text or "" for text in chosen.to_pylist()]
    if not pa.types.is_integer(chosen.type):
        raise DataError(
            f"{where}: expected text or the index of a task, found {chosen.type}. Correct data.columns.instruction."
        )
    for episode, index in zip(ids, chosen.to_pylist(), strict=True):
        if index not in tasks:
            raise DataError(
                f"{where}: episode {episode}: expected the index of one of {len(tasks)} tasks, found {index}. "
                f"Correct data.columns.instruction or repair the dataset."
            )
    return [tasks[index] for index in chosen.to_pylist()]
