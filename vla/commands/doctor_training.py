"""What `vla doctor` tries of a training: its settings, an exchange between processes, tracking, the loader."""

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vla import artifacts
from vla.commands.doctor_machine import Check, bad, good
from vla.dvc_file import artifact_paths
from vla.errors import UserError
from vla.models.device import choose_device
from vla.tracking import store
from vla.training import job, launch, launch_settings
from vla.training.distributed import single
from vla.training.feed import Feed
from vla.training.headroom import ENOUGH
from vla.training.job import Job, JobConfig
from vla.training.parts import Parts

LIMIT = timedelta(seconds=60)
LOADER_S = 2.0
SHOWN = ("NCCL_", "TORCH_NCCL_", "GLOO_", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "MASTER_")
"""Beginnings of variables that decide how workers meet and use their memory."""


def settings(cfg: JobConfig) -> Iterator[Check]:
    """Whether this machine can start the workers of section `execution`."""
    execution = cfg.execution
    try:
        job.check_split(cfg.train, workers=execution.workers)
        launch.check_cluster(os.environ.get("RAY_ADDRESS"))
        device = choose_device(execution.device, local_workers=execution.workers)
    except UserError as error:
        yield bad("workers", str(error))
        return
    if execution.launcher == "local" and execution.workers > 1:
        yield bad("workers", f"{execution.workers} by launcher local, which starts 1. Choose ray or torchrun")
        return
    cluster = " in the cluster of RAY_ADDRESS" if "RAY_ADDRESS" in os.environ else ""
    threads = execution.workers * execution.threads
    busy = f"; {threads} threads for {os.cpu_count()} cores" if threads > (os.cpu_count() or 1) else ""
    yield good("workers", f"{execution.workers} by {execution.launcher}{cluster} on {device.type}{busy}")


def environment() -> Check:
    """What workers will find; values that nobody has set are this project's."""
    added = launch_settings.missing(os.environ)
    given = {name: value for name, value in os.environ.items() if name.startswith(SHOWN)}
    found = [f"{name}={value}" for name, value in sorted({**given, **added}.items())]
    return good("environment", ", ".join(found))


def tracking() -> Check:
    uri = store.tracking_uri()
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite") and not file.exists():
        return good("tracking", f"{uri}, made by the first training")
    try:
        with store.answering(uri, then="Start it; training goes on without it."):
            store.connect(uri).search_experiments(max_results=1)
    except UserError as error:
        return bad("tracking", str(error))
    return good("tracking", f"{store.public_uri(uri)} answers")


def exchanges() -> Iterator[Check]:
    """A real sum over two processes, on the CPU, and over all GPUs where there are several."""
    yield _all_reduce("gloo", 2)
    if torch.cuda.device_count() > 1:
        yield _all_reduce("nccl", torch.cuda.device_count())


def _all_reduce(backend: str, count: int) -> Check:
    what = f"all-reduce {backend}"
    os.environ.update(launch_settings.missing(os.environ))
    with tempfile.TemporaryDirectory() as folder:
        try:
            with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as processes:
                same = [[value] * count for value in (backend, count, f"{folder}/store")]
                list(processes.map(_sum_of_ranks, range(count), *same))
        except (RuntimeError, ValueError, BrokenProcessPool) as error:
            return bad(what, f"{count} processes did not agree: {store.first_line(error)}")
    return good(what, f"{count} processes agree")


def _sum_of_ranks(rank: int, backend: str, count: int, file: str) -> None:
    dist.init_process_group(backend, init_method=f"file://{file}", rank=rank, world_size=count, timeout=LIMIT)
    try:
        value = torch.tensor([rank + 1.0], device=f"cuda:{rank}" if backend == "nccl" else "cpu")
        dist.all_reduce(value)
        if value.item() != count * (count + 1) / 2:
            raise ValueError(f"expected {count * (count + 1) / 2:g}, found {value.item()}")
    finally:
        dist.destroy_process_group()


def loader(cfg: JobConfig) -> Check:
    """What one process's loader delivers, against what the last training took."""
    paths = artifact_paths("train")
    inputs: dict[str, Path] = {
        name: paths[name] for name in ("dataset", "episodes", "norm_stats", "features") if name in paths
    }
    if len(inputs) < 4 or not all(path.exists() for path in [*inputs.values(), paths["metrics"]]):
        return good("loader", "no data yet; every training measures it")
    try:
        rate = delivered(cfg, inputs)
        taken = _demand(artifacts.read_json(paths["metrics"], made_by="vla train"))
    except UserError as error:
        return bad("loader", str(error))
    found = f"{rate:.0f} samples/s by one process"
    if taken is None:
        return good("loader", f"{found}; the last training did not measure what it takes")
    each = taken / cfg.execution.workers
    advice = "" if rate >= ENOUGH * each else ": too slow, raise execution.prefetch (docs/datasets.md)"
    return good("loader", f"{found}, the last training took {each:.0f} per worker{advice}")


def delivered(cfg: JobConfig, inputs: dict[str, Path]) -> float:
    """Samples per second of making the batches of a training's first steps, for two seconds."""
    identity = job.identify(cfg, **inputs)
    read = {name: path.resolve() for name, path in inputs.items() if name != "features"}
    with tempfile.TemporaryDirectory() as state:
        made = Job(
            cfg=JobConfig(**{name: getattr(cfg, name) for name in JobConfig.model_fields}),
            **read,
            state=Path(state),
            frames=job.frames_folder(),
            code=identity.code,
            passport={"inputs": dict(identity.inputs)},
        )
        with Feed(Parts.build(made).training, single("cpu"), cfg.execution, steps=made.steps) as feed:
            started = time.perf_counter()
            for step in range(made.steps):
                for _ in feed.batches(step):
                    if time.perf_counter() - started > LOADER_S:
                        return feed.samples_per_s() or 0.0
            return feed.samples_per_s() or 0.0


def _demand(summary: dict[str, Any]) -> float | None:
    """Samples per second that the last training took when it had them, over all workers."""
    if "loader_headroom" not in summary:
        return None
    return float(summary["loader_samples_per_s"] / summary["loader_headroom"])
