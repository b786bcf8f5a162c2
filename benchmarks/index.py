"""What the order `blocks` of a large episode table costs; `loader.py` runs this in processes of its own.

python benchmarks/index.py write FILE EPISODES
python benchmarks/index.py read FILE
"""

import re
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.data.episodes import SCHEMA, EpisodeTable
from vla.data.order import BlocksOrder

BATCH, AT_ONCE, LOOKED_UP = 64, 50_000, 1000


def write(path: Path, episodes: int) -> None:
    """A table as stage validate writes it: 100 to 400 steps, a block every 60, 50 instructions."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for first in range(0, episodes, AT_ONCE):
            count = min(AT_ONCE, episodes - first)
            length = rng.integers(100, 400, count)
            columns = {
                "episode_id": np.arange(first, first + count),
                "source": ["benchmark"] * count,
                "uid": rng.integers(0, 2**62, count),
                "content": [f"{first + row:064x}" for row in range(count)],
                "length": length,
                "supervised": length,
                "blocks": [np.arange(0, steps, 60, dtype=np.int32) for steps in length],
                "instruction": [f"put object {number} away" for number in rng.integers(0, 50, count)],
                "split": ["train"] * count,
                "reason": [""] * count,
            }
            arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
            writer.write_table(pa.table(arrays, schema=SCHEMA))


def read(path: Path) -> None:
    """Times in CPU seconds, memory at its highest and before."""
    before = peak()
    started = time.process_time()
    table = EpisodeTable.read(path, "train")
    known = time.process_time()
    order = BlocksOrder(table, seed=0, batch_size=BATCH, buffer_steps=512)
    order.samples(0)
    ready = time.process_time()
    steps = min(LOOKED_UP, order.steps_per_epoch)
    for step in range(steps):
        order.samples(step)
    each = (time.process_time() - ready) / steps / BATCH
    print(
        f"  {len(table):>9,} episodes: read in {known - started:.2f} s, order of the first epoch in "
        f"{ready - known:.2f} s, {1e6 * each:.1f} us per sample, memory {peak():,.0f} MB (imports: {before:,.0f} MB)"
    )


def peak() -> float:
    """The most memory that this process has had, in MB."""
    status = Path("/proc/self/status").read_text()
    return float(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1e3


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        read(Path(sys.argv[2]))
