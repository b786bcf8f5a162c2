"""How fast batches are made: samples per CPU second, and ratios to a plain reader measured in the same run.

    python benchmarks/loader.py                    # images in Parquet, the index, augmentation; about two minutes
    python benchmarks/loader.py --video FOLDER     # and a dataset in any known format with its own columns
    python benchmarks/loader.py --soak             # memory over 20,000 samples instead

Times are CPU seconds of the whole process, so they count all threads and do not depend on the number of cores. A sample
is a whole one: normalised state and chunk of 16 actions, weights, uid, tokens, flow noise and time, uint8 image. The
plain reader makes image, state and chunk of the same samples in the same order, and stacks them to batches.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch
from pictures import ACTION, IMAGE, STATE, PlainReader, generate

from vla import registry
from vla.augmentation import AugmentConfig, augment
from vla.columns import Columns
from vla.data.episodes import FOREVER, EpisodeTable
from vla.data.lanes import Lanes
from vla.data.loader import TrainingOrder
from vla.data.order import BlocksOrder
from vla.data.samples import Samples
from vla.folder import Folder
from vla.normalization import NormalizationConfig, NormStats, Statistics
from vla.terms import PolicySpec
from vla.tokenization import Tokenize
from vla.transforms import Processor, TransformsConfig

BATCH, HORIZON, BUFFER = 64, 16, 128
INDEX = Path(__file__).with_name("index.py")


def open_folder(root: Path, columns: Columns | None = None) -> tuple[Any, EpisodeTable]:
    """A dataset with its suggested columns, and the table of the episodes whose files are all there."""
    name = next(name for name in registry.names("formats") if registry.find("formats", name).recognises(root))
    module = registry.find("formats", name)
    dataset = module.open_dataset(Folder(root), columns or module.suggest_columns(root), name="benchmark")
    rows = dataset.episodes().to_pylist()
    here = [row for row in rows if all((root / file).is_file() for file in dataset.episode_files(row["episode_id"]))]
    texts = sorted({row["instruction"] for row in here})
    table = EpisodeTable(
        episode_id_E=np.array([row["episode_id"] for row in here]),
        uid_E=np.array([row["episode_id"] for row in here]),
        length_E=np.array([row["length"] for row in here]),
        supervised_E=np.array([FOREVER if row["supervised"] is None else row["supervised"] for row in here]),
        sources=("benchmark",),
        source_E=np.zeros(len(here), dtype=np.int64),
        blocks=pa.chunked_array([pa.array([dataset.block_starts(row["episode_id"]) for row in here])]),
        instructions=tuple(texts),
        instruction_E=np.array([texts.index(row["instruction"]) for row in here]),
        digest="",
    )
    return dataset, table


def in_blocks(dataset: Any, table: EpisodeTable, *, size: tuple[int, int] | None = None) -> TrainingOrder:
    """The order `blocks` with the settings of this benchmark; images are resized to `size` where one is given."""
    schema = dataset.schema
    size = size or next(iter(schema.views.values()))
    cfg = TransformsConfig(
        image_size=size,
        max_tokens=64,
        normalization=NormalizationConfig(state="mean_std", actions="mean_std"),
        augment=AugmentConfig(shift_px=0),
    )
    state, actions = (
        Statistics(mean=np.zeros(dims), std=np.ones(dims)) for dims in (schema.state_dim, schema.action_dim)
    )
    tokenize = Tokenize.train(table.instructions, cfg.max_tokens)
    processor = Processor.make(cfg, tuple(schema.views), NormStats(state, actions, {}), tokenize)
    spec = PolicySpec(
        views=tuple(schema.views),
        image_size=size,
        state_dim=schema.state_dim,
        action_dim=schema.action_dim,
        action_horizon=HORIZON,
        max_tokens=cfg.max_tokens,
        vocabulary=tokenize.vocabulary,
    )
    samples = Samples.make(table, spec, processor, supervise_padded=False)
    order = BlocksOrder(table, seed=0, batch_size=BATCH, buffer_steps=BUFFER)
    lanes = Lanes(order, samples, [dataset], limit_bytes=10**11)
    return TrainingOrder(samples, order, lanes, seed=0, batch_size=BATCH, augment=cfg.augment)


def timed(work: Callable[[], Any]) -> float:
    """CPU seconds."""
    started = time.process_time()
    work()
    return time.process_time() - started


def epoch(training: TrainingOrder, number: int = 0) -> Iterator[Any]:
    """All batches of an epoch."""
    for step in range(number * training.steps_per_epoch, (number + 1) * training.steps_per_epoch):
        yield training.batch(step, 0, BATCH)


def against_plain_reader(root: Path) -> None:
    """Samples per CPU second of images in Parquet, in turns with the reference."""
    columns = Columns(state=STATE, actions=ACTION, views={"front": IMAGE})
    ours, plain = [], []
    for _ in range(3):
        dataset, table = open_folder(root, columns)
        training = in_blocks(dataset, table)
        indices = np.concatenate([training.sample_indices(step) for step in range(training.steps_per_epoch)])
        episodes, steps = training.samples.windows.locate(indices)
        reader = PlainReader(root, HORIZON)
        plain.append(len(indices) / timed(lambda: list(map(len, reader.batches(episodes, steps, BATCH)))))  # noqa: B023
        ours.append(len(indices) / timed(lambda: [batch.weight_total for batch in epoch(training)]))  # noqa: B023
        training.close()
    print(f"images in Parquet: {len(indices):,} samples of {next(iter(dataset.schema.views.values()))} pixels")
    print(f"  plain reader  {max(plain):8,.0f} samples/CPU s   (runs {', '.join(f'{rate:,.0f}' for rate in plain)})")
    print(f"  order blocks  {max(ours):8,.0f} samples/CPU s   (runs {', '.join(f'{rate:,.0f}' for rate in ours)})")
    print(f"  ratio         {max(ours) / max(plain):8.1%}")


def video(root: Path) -> None:
    """Samples per CPU second of a folder, resized to 224 x 224."""
    dataset, table = open_folder(root)
    training = in_blocks(dataset, table, size=(224, 224))
    count = training.steps_per_epoch * BATCH
    seconds = timed(lambda: [batch.weight_total for batch in epoch(training)])
    views = ", ".join(f"{view} {size}" for view, size in dataset.schema.views.items())
    print(f"{root.name}: {count:,} samples ({views}) to 224 x 224: {count / seconds:,.0f} samples/CPU s")
    training.close()


def index(folder: Path) -> None:
    """Tables of a thousand and of a million episodes, each read in a process of its own."""
    for episodes in (1000, 1_000_000):
        path = folder / f"{episodes}.parquet"
        subprocess.run([sys.executable, INDEX, "write", path, str(episodes)], check=True)
        subprocess.run([sys.executable, INDEX, "read", path], check=True)


def augmentation() -> None:
    """CPU time per image."""
    images = np.random.default_rng(0).integers(0, 256, (1, 1, 3, 224, 224), dtype=np.uint8)
    full = {"crop": 0.95, "rotate_degrees": 5.0, "brightness": 0.3, "contrast": 0.4, "saturation": 0.5}
    for name, settings in (("shift", {"shift_px": 8}), ("crop, rotation and colours", {"shift_px": 0, **full})):
        cfg = AugmentConfig(**settings)  # type: ignore[arg-type]
        seconds = min(
            timed(lambda: [augment(images, cfg, views=("a",), seed=0, presentation=i) for i in range(100)])  # noqa: B023
            for _ in range(5)
        )
        print(f"  {name:<28}{1e4 * seconds:6.0f} us per image of 224 x 224")


def soak(root: Path) -> None:
    """Memory of this process over 20,000 samples in the order `blocks`."""
    dataset, table = open_folder(root, Columns(state=STATE, actions=ACTION, views={"front": IMAGE}))
    training = in_blocks(dataset, table)
    process = psutil.Process()
    for step in range(20_000 // BATCH + 1):
        training.batch(step, 0, BATCH)
        if (step * BATCH) // 2500 < ((step + 1) * BATCH) // 2500:
            print(f"  {(step + 1) * BATCH:>6,} samples: {process.memory_info().rss / 1e6:,.0f} MB")
    training.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=40, help="of 200 steps, in the generated dataset")
    parser.add_argument("--video", type=Path, action="append", default=[], help="a folder of any known format")
    parser.add_argument("--soak", action="store_true", help="memory over 20,000 samples")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), episodes=options.episodes, steps=200, side=96)
        if options.soak:
            soak(Path(folder))
            return
        against_plain_reader(Path(folder))
        for root in options.video:
            video(root)
        print("index:", flush=True)
        index(Path(folder))
    print("augmentation:")
    augmentation()


if __name__ == "__main__":
    main()
