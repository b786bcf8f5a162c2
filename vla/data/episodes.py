"""The episode table (`data/episodes.parquet`), which all stages after `validate` read, and opening its dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64

from vla import artifacts, registry
from vla.config import Config
from vla.data.manifest import Manifest
from vla.errors import DataError
from vla.formats import Columns, Dataset
from vla.paths import FileName

Split = Literal["train", "validation", "quarantined"]
SCHEMA = pa.schema(
    [
        ("episode_id", pa.int64()),
        ("uid", pa.int64()),  # keyed.uid(dataset name, episode id): keys randomness
        ("content", pa.string()),  # digest of state and actions, empty when quarantined: what the episode is
        ("length", pa.int64()),
        ("instruction", pa.string()),
        ("split", pa.string()),  # train | validation | quarantined
        ("reason", pa.string()),  # why quarantined, else empty
    ]
)


class DataConfig(Config):
    """Section `data`: which dataset, and which of its columns are what."""

    name: FileName
    """Identity of the dataset in episode uids, bundles and tracking."""
    format: str
    """File name in vla/formats."""
    columns: Columns


def open_dataset(cfg: DataConfig, dataset: Path) -> Dataset:
    """Open the dataset of the folder `dataset` (or the one it points to) after comparing it with its manifest."""
    manifest = Manifest.read(dataset)
    if manifest.format != cfg.format:
        raise DataError(
            f"{dataset}: expected format {cfg.format!r} (data.format), found {manifest.format!r}. "
            f"Set data.format to {manifest.format!r} or download another dataset."
        )
    manifest.verify(dataset)
    module = registry.find("formats", cfg.format)
    opened: Dataset = module.open_dataset(manifest.folder(dataset), cfg.columns, name=cfg.name)
    return opened


@dataclass(frozen=True, slots=True)
class EpisodeTable:
    """Episodes in dataset order, as columns; memory is proportional to episodes, never to steps."""

    episode_id_E: Int64[np.ndarray, "E"]
    uid_E: Int64[np.ndarray, "E"]
    length_E: Int64[np.ndarray, "E"]
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
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: expected a Parquet file, {error}. Run 'dvc repro -f -s validate'.") from None
        if not table.schema.equals(SCHEMA):
            raise DataError(f"{path}: expected the columns {SCHEMA.names}, found {table.schema.names}.")
        rows = table.filter(pc.equal(table["split"], split))
        if not len(rows):
            raise DataError(
                f"{path}: expected episodes of split {split!r}, found none among {len(table)}. "
                f"Change validate.holdout, or see the report of the validate stage for quarantined episodes."
            )
        texts = rows["instruction"].to_pylist()
        instructions = tuple(sorted(set(texts)))
        place = {text: index for index, text in enumerate(instructions)}
        return cls(
            episode_id_E=rows["episode_id"].to_numpy(),
            uid_E=rows["uid"].to_numpy(),
            length_E=rows["length"].to_numpy(),
            instructions=instructions,
            instruction_E=np.array([place[text] for text in texts], dtype=np.int64),
            digest=artifacts.digest_of_file(path),
        )

    def __len__(self) -> int:
        return len(self.episode_id_E)
