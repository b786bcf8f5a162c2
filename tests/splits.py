"""Episode tables made without files, and samples of array datasets, for tests of everything that loads them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from batches import a_spec
from builders import ArrayDataset, make_episode
from bundles import statistics

from vla import keyed
from vla.augmentation import AugmentConfig
from vla.data.episodes import EpisodeTable
from vla.data.samples import Samples
from vla.normalization import NormalizationConfig, NormStats
from vla.terms import PolicySpec
from vla.tokenization import Tokenize
from vla.transforms import Processor, TransformsConfig

LENGTHS = (5, 7, 4)
TEXTS = ("open the drawer", "close the drawer", "open the drawer")


def a_table(
    lengths: Sequence[int] = LENGTHS,
    *,
    ids: Sequence[int] | None = None,
    instructions: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    supervised: Sequence[int] | None = None,
    blocks: Sequence[list[int] | None] | None = None,
) -> EpisodeTable:
    """Episodes 0, 1, ... of these lengths, with the instructions of TEXTS in turn, all steps supervised, one source."""
    episodes = np.array(range(len(lengths)) if ids is None else ids, dtype=np.int64)
    source_names, source_E = _coded(sources or ["arrays"] * len(lengths))
    texts, instruction_E = _coded(instructions or [TEXTS[row % len(TEXTS)] for row in range(len(lengths))])
    return EpisodeTable(
        episode_id_E=episodes,
        uid_E=np.array([keyed.uid("arrays", number) for number in episodes.tolist()]),
        length_E=np.array(lengths, dtype=np.int64),
        supervised_E=np.array(lengths if supervised is None else supervised, dtype=np.int64),
        sources=source_names,
        source_E=source_E,
        blocks=None if blocks is None else pa.chunked_array([pa.array(blocks, pa.list_(pa.int32()))]),
        instructions=texts,
        instruction_E=instruction_E,
        digest="d",
    )


def _coded(texts: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    names = tuple(sorted(set(texts)))
    return names, np.array([names.index(text) for text in texts], dtype=np.int64)


def a_dataset(lengths: Sequence[int] = LENGTHS, *, seed: int = 0) -> ArrayDataset:
    """Noise in the episodes of `a_table`."""
    return ArrayDataset([make_episode(n, seed=seed + row) for row, n in enumerate(lengths)])


def a_processor(**changes: Any) -> Processor:
    """For `a_dataset`, to images of 8 x 16 pixels."""
    settings: dict[str, Any] = {
        "image_size": (8, 16),
        "max_tokens": 4,
        "normalization": NormalizationConfig(state="mean_std", actions="min_max"),
        "augment": AugmentConfig(shift_px=2),
    }
    cfg = TransformsConfig(**{**settings, **changes})
    stats = NormStats(statistics(3), statistics(2), {})
    return Processor.make(cfg, ("front", "wrist"), stats, Tokenize.train(TEXTS, 4))


def a_loader_spec(**changes: Any) -> PolicySpec:
    """The spec of a policy for `a_dataset`: chunks of 3 actions unless changed."""
    sizes = {"views": ("front", "wrist"), "image_size": (8, 16), "state_dim": 3, "action_dim": 2}
    return a_spec(**{"horizon": 3, **sizes, **changes})


def some_samples(table: EpisodeTable | None = None, *, supervise_padded: bool = False, **spec: Any) -> Samples:
    """The samples of a table."""
    made = a_loader_spec(**spec)
    return Samples.make(table or a_table(), made, a_processor(), supervise_padded=supervise_padded)
