"""The episode table (`data/episodes.parquet`), which all stages after `validate` read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64

from vla import artifacts
from vla.errors import DataError

FOREVER = np.iinfo(np.int64).max
"""Number of supervised steps of an episode that was merely cut off: its last action goes on being the right one."""
Split = Literal["train", "validation", "quarantined"]
SCHEMA = pa.schema(
    [
        ("episode_id", pa.int64()),  # number of the source above its own id (vla/data/sources.py)
        ("source", pa.string()),  # name of the dataset within the mixture
        ("uid", pa.int64()),  # keyed.uid(source, its own episode id): keys randomness
        ("content", pa.string()),  # digest of state and actions, empty when quarantined: what the episode is
        ("length", pa.int64()),
        ("supervised", pa.int64()),  # steps whose actions are supervised; null: for ever (vla/formats)
        (
            "blocks",
            pa.list_(pa.int32()),
        ),  # steps at which reading images can begin; null: unknown
        ("instruction", pa.string()),
        ("split", pa.string()),  # train | validation | quarantined
        ("reason", pa.string()),  # why quarantined, else empty
    ]
)
READ = ["episode_id", "source", "uid", "length", "supervised", "blocks", "instruction"]
"""What later stages need."""


@dataclass(frozen=True, slots=True)
class EpisodeTable:
    """Episodes in dataset order, as columns; memory is proportional to episodes, never to steps."""

    episode_id_E: Int64[np.ndarray, "E"]
    uid_E: Int64[np.ndarray, "E"]
    length_E: Int64[np.ndarray, "E"]
    supervised_E: Int64[np.ndarray, "E"]
    """Steps whose actions are supervised; FOREVER where the last action goes on after the end."""
    sources: tuple[str, ...]
    """The distinct sources, sorted."""
    source_E: Int64[np.ndarray, "E"]
    """Index into `sources`."""
    blocks: pa.ChunkedArray | None
    """Per episode the steps at which images can be read from, as list<int32>; None in tables made without files."""
    instructions: tuple[str, ...]
    """The distinct instructions, sorted."""
    instruction_E: Int64[np.ndarray, "E"]
    """Index into `instructions`."""
    digest: str
    """Digest of the file that it was read from."""

    @classmethod
    def read(cls, path: Path, split: Split) -> Self:
        """The episodes of one split; raises DataError when there are none."""
        if not path.is_file():
            raise DataError(f"{path}: expected the episode table, found none. Run 'dvc repro validate'.")
        try:
            schema = pq.read_schema(path)
            if not schema.equals(SCHEMA):
                raise DataError(f"{path}: expected the columns {SCHEMA.names}, found {schema.names}.")
            # Texts stay coded: a million episodes have few of them.
            table = pq.read_table(path, columns=[*READ, "split"], read_dictionary=["source", "instruction", "split"])
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: expected a Parquet file, {error}. Run 'dvc repro -f -s validate'.") from None
        rows = table.filter(pc.equal(table["split"].cast(pa.string()), split)).select(READ)
        if not len(rows):
            raise DataError(
                f"{path}: expected episodes of split {split!r}, found none among {len(table)}. "
                f"Change validate.holdout, or see the report of the validate stage for quarantined episodes."
            )
        instructions, instruction_E = _coded(rows["instruction"])
        sources, source_E = _coded(rows["source"])
        return cls(
            episode_id_E=rows["episode_id"].to_numpy(),
            uid_E=rows["uid"].to_numpy(),
            length_E=rows["length"].to_numpy(),
            supervised_E=rows["supervised"].fill_null(FOREVER).to_numpy(),
            sources=sources,
            source_E=source_E,
            blocks=rows["blocks"],
            instructions=instructions,
            instruction_E=instruction_E,
            digest=artifacts.digest_of_file(path),
        )

    def __len__(self) -> int:
        return len(self.episode_id_E)


def _coded(texts: pa.ChunkedArray) -> tuple[tuple[str, ...], Int64[np.ndarray, "E"]]:
    """The distinct texts that occur, sorted, and each row's index into them; no Python object per row."""
    coded = texts.unify_dictionaries().combine_chunks()
    known, code_E = coded.dictionary.to_pylist(), coded.indices.to_numpy()
    order = sorted(np.unique(code_E).tolist(), key=known.__getitem__)
    place = np.empty(len(known), dtype=np.int64)
    place[order] = np.arange(len(order))
    return tuple(known[code] for code in order), place[code_E]
