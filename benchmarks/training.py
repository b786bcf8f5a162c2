"""What the training loop costs beside the model: ratios to a bare PyTorch loop, Ray to torchrun, checkpoints, logging.

    OMP_NUM_THREADS=1 python benchmarks/training.py                # all of them; launchers take the longest
    OMP_NUM_THREADS=1 python benchmarks/training.py --only loop    # or: launchers, checkpoint, logging

The data are generated and the policy is the one of params.yaml, so a step costs what it costs in `make repro`. Ours and
the reference take turns within one run, block by block, and medians of the blocks are compared: a machine that is
disturbed disturbs both.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pictures
import torch
import yaml
from torch import nn
from training_project import make_job, make_project, train_command

from vla.tracking.journal import Journal
from vla.training import distributed
from vla.training.loop import Worker
from vla.training.objective import weighted_error
from vla.training.optim import make_optimizer

ROUNDS, BLOCK = 12, 10
"""Blocks of each kind, and optimizer steps in a block."""
METRICS = 10
"""Points that are logged in a step."""


def seconds_per_step(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    for _ in range(BLOCK):
        run()
    return (time.perf_counter() - started) / BLOCK


def loop(root: Path) -> float:
    """Our loop against forward, backward, clipping and AdamW on batches that are at hand; returns seconds per step."""
    job = make_job(root, {"train.steps": 10_000, "train.ema": 0.998})
    worker = Worker.start(job, distributed.single(job.cfg.execution.device))
    with worker.feed:
        worker.settle(0)
        bare = BareLoop(worker)
        ours, theirs, waited = [], [], worker.feed.waited
        for _ in range(ROUNDS):
            ours.append(seconds_per_step(worker.take_step))
            theirs.append(seconds_per_step(bare.take_step))
        waited = (worker.feed.waited - waited) / (ROUNDS * BLOCK)
    mine, reference = statistics.median(ours), statistics.median(theirs)
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    print(f"loop        {1e3 * mine:8.2f} ms/step, bare PyTorch loop {1e3 * reference:.2f} ms/step: ", end="")
    print(f"overhead {mine / reference - 1:+.1%} (quartiles {ratios[len(ratios) // 4] - 1:+.1%}", end="")
    print(f" to {ratios[-len(ratios) // 4] - 1:+.1%}); of it {1e3 * waited:.2f} ms waiting for batches")
    return mine


class BareLoop:
    """What everybody writes first: no average of weights, no checks, no loader, one process."""

    def __init__(self, worker: Worker) -> None:
        cfg = worker.job.cfg.train
        self.policy = copy.deepcopy(worker.state.policy)
        self.optimizer = make_optimizer(self.policy, cfg.optimizer)
        self.clip = cfg.optimizer.clip_norm
        self.batches = [list(worker.feed.batches(step)) for step in range(BLOCK)]
        self.step = 0

    def take_step(self) -> None:
        for batch in self.batches[self.step % BLOCK]:
            weighted_error(self.policy(batch), batch).backward()
        nn.utils.clip_grad_norm_(self.policy.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1


def launchers(root: Path) -> None:
    """Steady state of whole trainings, Ray and torchrun in turn, with a worker for all cores but one and for each."""
    cores = os.cpu_count() or 1
    for workers in sorted({max(1, cores - 1), cores}):
        rates: dict[str, list[float]] = {"ray": [], "torchrun": []}
        for number, launcher in enumerate([*rates, *reversed(rates)]):
            # Each has a seed of its own: a finished training is the same under every launcher, and is not run again.
            changes = {"execution.launcher": launcher, "execution.workers": workers, "seed": 10 * workers + number}
            rates[launcher] += _rates(root, {**changes, "train.steps": 240})
        ray, torchrun = (statistics.median(values) for values in rates.values())
        print(
            f"launchers   {workers} workers on {cores} cores: {ray:.1f} samples/s under Ray, {torchrun:.1f} under "
            f"torchrun: {torchrun / ray - 1:+.1%} time"
        )


def _rates(root: Path, changes: dict[str, Any]) -> list[float]:
    """Samples per second in the intervals after the first one."""
    command, environment = train_command(root, {**changes, "execution.log_every": 20})
    subprocess.run(command, cwd=root, env=environment, check=True, stderr=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (root / "out/training/metrics.jsonl").read_text().splitlines()]
    return [row["metrics"]["samples_per_s"] for row in rows if "samples_per_s" in row["metrics"]][1:]


def checkpoint(root: Path, *, step_seconds: float | None) -> None:
    """How long training stands still while a checkpoint is written and synced."""
    job = make_job(root, {})
    worker = Worker.start(job, distributed.single(job.cfg.execution.device))
    with worker.feed:
        worker.resume()
        worker.take_step()
        stalls = []
        for _ in range(5):
            started = time.perf_counter()
            worker.save()
            stalls.append(time.perf_counter() - started)
            worker.state.step += 1
    folder = max(item for item in job.state_directory.checkpoints.iterdir() if item.name.isdigit())
    size, stall = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()), statistics.median(stalls)
    line = (
        f"checkpoint  {1e3 * stall:8.1f} ms for {size / 1e6:.1f} MB ({size / 1e6 / stall:.0f} MB/s, synced and hashed)"
    )
    every = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())["execution"]["checkpoint_every"]
    print(line + (f"; every {every} steps: {stall / (every * step_seconds):.2%} of the time" if step_seconds else ""))


def logging(root: Path, *, step_seconds: float | None) -> None:
    """What a step pays for ten points in the journal, every step."""
    metrics, count = {f"metric_{number}": 0.123456789 * number for number in range(METRICS)}, 5000
    with Journal(root / "metrics.jsonl") as journal:
        started = time.perf_counter()
        for step in range(count):
            journal.append(step, metrics)
        seconds = (time.perf_counter() - started) / count
    line = f"logging     {1e6 * seconds:8.1f} us for {METRICS} points"
    print(line + (f": {seconds / step_seconds:.3%} of a step" if step_seconds else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["loop", "launchers", "checkpoint", "logging"])
    parser.add_argument("--episodes", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with tempfile.TemporaryDirectory() as folder:
        root = make_project(
            Path(folder), lambda path: pictures.generate(path, episodes=options.episodes, steps=60, side=64)
        )
        step_seconds = loop(root) if options.only in (None, "loop") else None
        if options.only in (None, "logging"):
            logging(root, step_seconds=step_seconds)
        if options.only in (None, "checkpoint"):
            checkpoint(root, step_seconds=step_seconds)
        if options.only in (None, "launchers"):
            launchers(root)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
