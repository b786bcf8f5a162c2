"""Workers of a training in processes that may be killed, forked from one that has imported everything.

So a start takes a tenth of a second in place of three, and a thousand kills take minutes.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from interruptions import Trace, traced

import vla.policies
from vla.errors import Preempted
from vla.models import bundle
from vla.tracking.journal import read
from vla.training import checkpoint, loop, train
from vla.training.distributed import Context
from vla.training.job import Job

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pytest", "vla.training.train", "vla.sim.write", "vla.data.validate", "torch._dynamo"])
POLICIES = Path(__file__).with_name("more_policies")
"""Policies that only tests train."""
CPU = torch.device("cpu")
LIMIT_S = 120.0
SURE = ("loss", "grad_norm", "validation_loss", "batch_digest", "lr", "skipped_steps")
"""Metrics, by the beginning of their names, that are no times."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to the workers of a try."""

    stop_at: int | None = None
    """They are asked to stop after this step."""
    operation: int | None = None
    """kill -9 of the writer at this file operation."""
    settles: bool = True
    """Whether DDP may settle before the first step."""


class Stopped(Context):
    """A worker that is asked to stop after a number of steps of its own."""

    steps: int | None = None

    def wants_stop(self) -> bool:
        if self.steps is not None:
            self.steps -= 1
        return self.steps == 0


class Doomed(Trace):
    """A trace that ends in the death of the process."""

    def step(self, name: str, *places: Any) -> None:
        if len(self.events) + 1 >= self.limit:
            os.kill(os.getpid(), signal.SIGKILL)
        super().step(name, *places)


def work(values: dict[str, Any], plan: Plan, rank: int = 0, world: int = 1, rendezvous: str = "") -> None:
    """A worker's life: what `vla train` does before it starts one, then the loop. Exits with 75 when it has stopped."""
    vla.policies.__path__.append(str(POLICIES))
    job = Job.parse(values, where="job")
    if not plan.settles:
        loop.Worker.settle = lambda *_arguments: None  # type: ignore[method-assign]
    doom = traced(Doomed(plan.operation)) if rank == 0 and plan.operation is not None else nullcontext()
    with doom:
        step = (train._last_intact_step(job.state_directory) or 0) if rank == 0 else 0
        if job.state_directory.done.is_file():
            return
        with _group(rank, world, rendezvous) as group:
            context = Stopped(rank, world, CPU, group)
            step = context.from_writer(step)
            context.steps = None if plan.stop_at is None else plan.stop_at - step
            outcome = loop.train(job, context)
    sys.exit(0 if outcome == "done" else Preempted.exit_code)


@contextmanager
def _group(rank: int, world: int, rendezvous: str) -> Iterator[dist.ProcessGroup | None]:
    if world == 1:
        yield None
        return
    limit = timedelta(seconds=LIMIT_S)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world, timeout=limit)
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def start(job: Job, plan: Plan | None = None, *, world: int = 1) -> list[ForkServerProcess]:
    """Start the workers of a job."""
    job.state.mkdir(parents=True, exist_ok=True)
    rendezvous = job.state.parent / f"{job.state.name}-{os.urandom(4).hex()}"
    arguments = [(job.plain(), plan or Plan(), rank, world, str(rendezvous)) for rank in range(world)]
    workers = [SERVER.Process(target=work, args=each, daemon=True) for each in arguments]
    for worker in workers:
        worker.start()
    return workers


def end(workers: Sequence[ForkServerProcess]) -> int:
    """Wait for workers who end alike; returns how."""
    for worker in workers:
        worker.join(LIMIT_S)
    codes = {worker.exitcode for worker in workers}
    assert len(codes) == 1, f"workers ended differently: {codes}"
    code = codes.pop()
    assert code is not None, f"workers still run after {LIMIT_S} s"
    return code


def finish(job: Job, plan: Plan | None = None, *, world: int = 1) -> None:
    """Run a job to its end, or to where it is asked to stop."""
    code = end(start(job, plan, world=world))
    assert code == (0 if plan is None or plan.stop_at is None else Preempted.exit_code), f"exit code {code}"


def wait_for_step(job: Job, step: int) -> None:
    """Wait until there is a checkpoint of at least `step`."""
    deadline = time.monotonic() + LIMIT_S
    while checkpoint.last_step(job.state_directory.checkpoints) < step:
        assert time.monotonic() < deadline, f"no checkpoint of step {step} within {LIMIT_S} s"
        time.sleep(0.005)


def kill(workers: Sequence[ForkServerProcess]) -> None:
    """kill -9 of all workers."""
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(LIMIT_S)


def rows(job: Job) -> list[tuple[int, dict[str, float]]]:
    """The metrics of a training that depend on no clock, by step."""
    found = list[tuple[int, dict[str, float]]]()
    for row in read(job.state_directory.journal):
        sure = {name: value for name, value in row.metrics.items() if name.startswith(SURE)}
        found += [(row.step, sure)] if sure else []
    return found


def result(job: Job) -> dict[str, Any]:
    """All that a training has to show: its summary with the digest of its bundle, and its metrics."""
    state = job.state_directory
    assert bundle.digest_of(state.bundle) == state.summary()["bundle_digest"]
    return {"summary": state.summary(), "rows": rows(job)}
