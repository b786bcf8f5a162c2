"""What tests run in processes of their own; it imports little, as every process imports it again."""

import json
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from vla.errors import DataError
from vla.training import loop
from vla.training.distributed import Context
from vla.training.job import Job
from vla.training.parts import Parts
from vla.training.state import TrainState
from vla.training.validation import Validation

CPU = torch.device("cpu")


def validate_as_rank(rank: int, job: dict[str, Any], folder: str) -> None:
    """One of three processes that measure a fresh policy in worlds of the first one, two and three of them.

    Writes `<rank>.json`: "<ranks> x <micro-batch>" -> validation loss and error.
    """
    parsed = Job.parse(job, where="job")
    parts = Parts.build(parsed)
    state = TrainState.fresh(parts.policy, parsed.cfg.train)
    found = {}
    place = {"init_method": f"file://{folder}/rendezvous", "rank": rank, "world_size": 3}
    dist.init_process_group("gloo", **place, timeout=timedelta(seconds=300))
    try:
        for world in (1, 2, 3):
            group = dist.new_group(range(world))
            for micro_batch in (1, 3, 8) if rank < world else ():
                context = Context(rank, world, CPU, group)
                values = Validation(parts.validation, parts.sampling, context, micro_batch).measure(state)
                found[f"{world} x {micro_batch}"] = [values["validation_loss"], values["validation_error"]]
    finally:
        dist.destroy_process_group()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def step_as_rank(rank: int, job: dict[str, Any], folder: str) -> None:
    """One of two processes that each take their half of a step in micro-batches, and then meet a bad sample.

    Writes `<rank>.json`: the buckets whose gradients were exchanged in one step, and the error after the sample at
    place 6 of step 1, which is rank 1's, got a state that is no number. `<rank>.safetensors`: the gradient of step 0.
    """
    buckets: list[int] = []

    def exchange(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        buckets.append(bucket.index())
        return allreduce_hook(group, bucket)

    place = {"init_method": f"file://{folder}/rendezvous", "rank": rank, "world_size": 2}
    dist.init_process_group("gloo", **place, timeout=timedelta(seconds=300))
    try:
        worker = loop.Worker.start(Job.parse(job, where="job"), Context(rank, 2, CPU, dist.group.WORLD))
        worker.module.register_comm_hook(dist.group.WORLD, exchange)
        with worker.feed:
            worker.settle(0)
            buckets.clear()
            worker._backward(0, worker.feed.batches(0))
            exchanged = list(buckets)
            gradient = {name: value.grad.clone() for name, value in worker.state.parameters().items()}
            worker.take_step()
            spoil(worker, step=1, place=6)
            try:
                worker.take_step()
            except DataError as error:
                message = str(error)
    finally:
        dist.destroy_process_group()
    save_file(gradient, Path(folder, f"{rank}.safetensors"))
    Path(folder, f"{rank}.json").write_text(json.dumps({"exchanged": exchanged, "message": message}))


def spoil(worker: loop.Worker, *, step: int, place: int) -> str:
    """Make the state of a sample of a batch that has not been made yet no number; returns the sample's name."""
    training = worker.parts.training
    training._supply.steps.state_TS[training.sample_indices(step)[place]] = float("nan")
    return training.names(step, place, place + 1)[0]


class Doomed(Context):
    """A worker that is killed with -9 in the middle of its 24th step."""

    steps = 0

    def wants_stop(self) -> bool:
        self.steps += 1
        if self.steps == 24:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().wants_stop()


def train_until_killed(job: dict[str, Any]) -> None:
    loop.train(Job.parse(job, where="job"), Doomed(0, 1, CPU, None))
