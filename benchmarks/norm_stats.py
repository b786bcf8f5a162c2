"""How fast the statistics are: frames per CPU second, and ratios to references measured in the same run.

    python benchmarks/norm_stats.py                       # generated data, under a minute
    python benchmarks/norm_stats.py --frames 1000000      # more frames
    python benchmarks/norm_stats.py --dataset ../shared/data/g1_v21_video   # and a LeRobot v2.1 dataset with video

Times are CPU seconds of the whole process, so they count all threads and do not depend on the number of cores.

References, all on the same data:
  numpy        the whole columns read by pyarrow, then numpy's mean, std and quantiles: the same numbers, unweighted
  histograms   chunks of H actions made for every frame, in batches of 32, into running moments and histograms of 5000
               bins per dimension that are binned again when the range grows: what openpi computes, without any image
  decode all   the histograms, and before them every frame of every view decoded to RGB, each by opening the video and
               seeking to it, as a per-sample loader does; `in one go` decodes each video once from its beginning, which
               no loader of samples does, as a floor. Frames are not resized, which a training loader would do as well.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from recorded import ACTION, STATE, Recorded, generate
from references import HORIZON, by_histograms, by_numpy, chunks_by_numpy, follower, opener

from vla import registry
from vla.columns import Columns
from vla.data.episodes import FOREVER, EpisodeTable
from vla.data.norm_stats import Counted, Counting
from vla.folder import Folder
from vla.normalization import NormStats

FILMED = 60
"""Steps whose frames are decoded: the time of a frame does not depend on how many there are."""


def exact(data: Recorded, *, chunks: bool = False) -> NormStats:
    """The statistics as the stage computes them, reading included."""
    columns = Columns(state=STATE, actions=ACTION, views=data.views)
    dataset: Any = registry.find("formats", "lerobot_v21").open_dataset(Folder(data.root), columns, name="benchmark")
    ids = np.array(list(data.lengths))
    nothing = np.zeros_like(ids)
    table = EpisodeTable(
        episode_id_E=ids,
        uid_E=nothing,
        length_E=np.array(list(data.lengths.values())),
        supervised_E=nothing + FOREVER,
        sources=("benchmark",),
        source_E=nothing,
        blocks=None,
        instructions=("",),
        instruction_E=nothing,
        digest="",
    )
    counting = Counting({"benchmark": 1}, HORIZON, chunks=chunks)
    return Counted(dataset, table, counting, memory_bytes=10**9).statistics()


def timed(work: Callable[[], Any], *, repeats: int = 1) -> tuple[float, Any]:
    """The least CPU seconds of some runs, and what the last one gave."""
    best, result = np.inf, None
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        best = min(best, time.process_time() - start)
    return best, result


def report(data: Recorded, name: str) -> None:
    """All figures of one dataset."""
    exact(data)  # the first pass reads the files from disk
    steps, found = timed(lambda: exact(data), repeats=3)
    chunks, _ = timed(lambda: exact(data, chunks=True), repeats=3)
    plain, quantiles = timed(lambda: by_numpy(data))
    for stats, expected in zip((found.state, found.actions), quantiles, strict=True):
        assert np.array_equal([stats.q01, stats.q50, stats.q99], expected), "quantiles differ from numpy's"
    some = data.first(20)
    made, expected = timed(lambda: chunks_by_numpy(some))
    actions = exact(some, chunks=True).actions
    assert np.array_equal([actions.q01, actions.q50, actions.q99], expected), "quantiles differ from numpy's"

    dims = f"{len(found.state.mean)} + {len(found.actions.mean)} dimensions"
    print(f"\n{name}: {data.frames:,} frames in {len(data.lengths)} files, {dims}, {len(data.views)} views")
    print(f"{'':<32}{'us/frame':>12}{'frames/s':>12}{'x by steps':>12}{'x by chunks':>12}")
    own = (steps / data.frames, chunks / data.frames)
    line("exact statistics, by steps", own[0], own)
    line("exact statistics, by chunks", own[1], own)
    line("numpy, the same by steps", plain / data.frames, own)
    line("numpy, actions of all chunks", made / some.frames, own)
    for label, decode, frames in (
        ("histograms of all chunks", lambda _episode, _step: None, 100 * FILMED),
        ("decode all, in one go", follower(data), FILMED),
        ("decode all", opener(data), FILMED),
    ):
        seconds, done = timed(lambda decode=decode, frames=frames: by_histograms(data, frames, decode))
        line(label, seconds / done, own)


def line(label: str, seconds: float, own: tuple[float, float]) -> None:
    """CPU time per frame, and how many times that of the exact statistics it is."""
    ratios = "".join(f"{seconds / each:>12,.1f}" for each in own)
    print(f"  {label:<30}{1e6 * seconds:>12,.1f}{1 / seconds:>12,.0f}{ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=120_000, help="of the generated dataset")
    parser.add_argument("--dataset", type=Path, action="append", default=[], help="a LeRobot v2.1 folder with video")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(generate(Path(folder), options.frames, FILMED), "generated")
    for root in options.dataset:
        report(Recorded.find(root), root.name)


if __name__ == "__main__":
    main()
