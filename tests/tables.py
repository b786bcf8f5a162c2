"""Episode tables made without files."""

from collections.abc import Sequence

import numpy as np

from vla.data.episodes import FOREVER, EpisodeTable


def a_table(
    lengths: Sequence[int],
    *,
    ids: Sequence[int] | None = None,
    sources: Sequence[str] | None = None,
    instructions: Sequence[str] | None = None,
) -> EpisodeTable:
    """Episodes of these lengths; ids are positions unless given, uids ten times the ids."""
    episodes = np.array(range(len(lengths)) if ids is None else ids, dtype=np.int64)
    source_names, source_E = _coded(sources or ["arrays"] * len(lengths))
    texts, instruction_E = _coded(instructions or ["open the drawer"] * len(lengths))
    return EpisodeTable(
        episode_id_E=episodes,
        uid_E=10 * episodes,
        length_E=np.array(lengths, dtype=np.int64),
        supervised_E=np.full(len(lengths), FOREVER),
        sources=source_names,
        source_E=source_E,
        blocks=None,
        instructions=texts,
        instruction_E=instruction_E,
        digest="d",
    )


def _coded(texts: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    names = tuple(sorted(set(texts)))
    return names, np.array([names.index(text) for text in texts], dtype=np.int64)
