"""What the episodes of a LeRobot dataset are about: how long they are, and the texts of their tasks.

A text is kept once and episodes hold its number, so that a million of them take megabytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int32, Int64

from vla.errors import DataError


@dataclass(frozen=True, slots=True)
class EpisodeList:
    """What the metadata say about each episode, by ascending number."""

    where: str
    """The file or folder that says it."""
    ids_E: Int64[np.ndarray, "E"]
    lengths_E: Int64[np.ndarray, "E"]
    first_E: Int64[np.ndarray, "E"]
    """Place of an episode's first task in `task_K`."""
    counts_E: Int64[np.ndarray, "E"]
    """How many tasks it has."""
    task_K: Int32[np.ndarray, "K"]
    """Index into `texts`."""
    texts: tuple[str, ...]

    @classmethod
    def of(
        cls,
        where: str,
        ids_E: Int64[np.ndarray, "E"],
        lengths_E: Int64[np.ndarray, "E"],
        tasks: Iterable[pa.ListArray],
    ) -> "EpisodeList":
        """The episodes in any order; `tasks` holds the lists of texts, in one array or several."""
        counts_E, task_K, texts = _numbered(tasks)
        first_E = np.cumsum(counts_E) - counts_E
        order_E = np.argsort(ids_E, kind="stable")
        twice = ids_E[order_E][1:][np.diff(ids_E[order_E]) == 0]
        if len(twice):
            raise DataError(f"{where}: expected each episode once, found {twice[0]} again. Repair the dataset.")
        return cls(where, ids_E[order_E], lengths_E[order_E], first_E[order_E], counts_E[order_E], task_K, texts)

    def row(self, episode_id: int) -> int:
        """Row of an episode; raises DataError when there is none."""
        row = int(np.searchsorted(self.ids_E, episode_id))
        if row == len(self.ids_E) or self.ids_E[row] != episode_id:
            raise DataError(f"{self.where}: expected one of {len(self.ids_E)} episodes, found {episode_id}.")
        return row

    def tasks(self, row: int) -> list[str]:
        """The texts of the tasks of the episode in a row."""
        first = self.first_E[row]
        return [self.texts[task] for task in self.task_K[first : first + self.counts_E[row]]]

    def check_known(self, texts: Mapping[int, str], where: str) -> None:
        """Raises DataError when an episode has a task that the table of tasks at `where` lacks."""
        unknown = set(self.texts).difference(texts.values())
        for row in range(len(self.ids_E) if unknown else 0):
            found = unknown.intersection(self.tasks(row))
            if found:
                raise DataError(
                    f"{self.where}: episode {self.ids_E[row]}: expected tasks of {where}, found {min(found)!r}. "
                    f"Repair the dataset."
                )

    def instructions(self, found: Mapping[int, str]) -> pa.DictionaryArray:
        """One text per episode: that of `found` (row -> text), else its only task, else an empty one."""
        vocabulary = {text: number for number, text in enumerate(dict.fromkeys((*self.texts, "")))}
        number_E = np.full(len(self.ids_E), vocabulary[""], dtype=np.int32)
        is_one_E = self.counts_E == 1
        number_E[is_one_E] = self.task_K[self.first_E[is_one_E]]
        for row, text in found.items():
            number_E[row] = vocabulary.setdefault(text, len(vocabulary))
        return pa.DictionaryArray.from_arrays(number_E, pa.array(vocabulary, pa.string()))


def text_of(value: pa.ChunkedArray, tasks: Mapping[int, str], *, where: str) -> str:
    """What one value of a column says: text, or the index of a task."""
    kind, plain = value.type, value[0].as_py()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return plain or ""
    if not pa.types.is_integer(kind):
        raise DataError(
            f"{where}: expected text or the index of a task, found {kind}. Correct data.columns.instruction."
        )
    if plain not in tasks:
        raise DataError(
            f"{where}: expected the index of one of {len(tasks)} tasks, found {plain}. "
            f"Correct data.columns.instruction or repair the dataset."
        )
    return tasks[plain]


def _numbered(
    tasks: Iterable[pa.ListArray],
) -> tuple[Int64[np.ndarray, "E"], Int32[np.ndarray, "K"], tuple[str, ...]]:
    """How many tasks each list has, the numbers of all of them in order, and the texts that are numbered."""
    vocabulary: dict[str, int] = {}
    counts, numbers = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int32)]
    for lists in tasks:
        counts.append(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64))
        coded = lists.flatten().cast(pa.string()).fill_null("").dictionary_encode()
        own = [vocabulary.setdefault(text, len(vocabulary)) for text in coded.dictionary.to_pylist()]
        numbers.append(np.array(own, dtype=np.int32)[coded.indices.to_numpy()])
    return np.concatenate(counts), np.concatenate(numbers), tuple(vocabulary)
