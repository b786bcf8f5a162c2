"""A small dataset of stepwise Parquet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.formats.files import FPS, png
from tests.formats.miniature_lerobot import IMAGE, Episode, episodes
from vla.columns import Columns

COLUMNS = Columns(
    state="state",
    actions="action",
    views={"front": "image_1", "wrist": "image_2"},
    instruction="prompt",
    fps=FPS,
)


def write_stepwise(root: Path) -> list[Episode]:
    """Episodes of 9 and 5 steps in a file with row groups of 4, and one of 6 steps in another."""
    made = episodes((9, 5, 6))
    write_steps(root / "part-00000.parquet", made[:2], row_group_size=4)
    write_steps(root / "part-00001.parquet", made[2:], row_group_size=4)
    return made


def write_steps(path: Path, made: Sequence[Episode], *, row_group_size: int | None = None) -> None:
    """A file of episodes that all reach a terminal state; one view is plain, the other a struct under its long name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables([table(each) for each in made]), path, row_group_size=row_group_size)


def table(episode: Episode) -> pa.Table:
    steps = np.arange(len(episode))
    is_last = steps == len(steps) - 1
    wrist = [{"bytes": png(image), "path": None} for image in episode.images["wrist"]]
    return pa.table(
        {
            "image_1": pa.array([png(image) for image in episode.images["front"]], pa.binary()),
            "image_2_bytes": pa.array(wrist, IMAGE),
            "state": pa.array(episode.state.tolist(), pa.list_(pa.float32())),
            "action": pa.FixedSizeListArray.from_arrays(episode.actions.ravel(), episode.actions.shape[1]),
            "is_first": steps == 0,
            "is_last": is_last,
            "is_terminal": is_last,
            "prompt": [episode.instruction] * len(episode),
        }
    )
