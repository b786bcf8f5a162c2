"""The training loop: one worker's run from its state to the finished bundle, readable top to bottom.

It knows a `Context` (rank, device, sums) and nothing else about where it runs. A step is a pure function of the state
and the step number: batches, noise and dropout are keyed, so a resume is exact.
"""

import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import nn
from torch.func import functional_call

from vla import artifacts, keyed
from vla.data.loader import ValidationOrder
from vla.errors import DataError
from vla.models import bundle
from vla.models.policy import Batch, FlowLoss
from vla.tracking.journal import Journal
from vla.training import checkpoint
from vla.training.distributed import Context, without_sync
from vla.training.job import Job, Parts
from vla.training.optim import learning_rate, set_learning_rate
from vla.training.state import TrainState, weights_for_bundle

Outcome = Literal["done", "preempted"]


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimizer step was like."""

    loss: float
    """Of the whole batch."""
    grad_norm: float
    """Before clipping."""
    data_seconds: float
    """Spent making this rank's batches."""
    seconds: float
    """Spent on all of it."""
    stop: bool
    """Whether a rank was asked to stop; all ranks see the same."""


@dataclass(slots=True)
class Interval:
    """Sums over the steps since the last row of metrics; a checkpoint keeps them, so that a resume goes on adding."""

    steps: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    data_seconds: float = 0.0
    seconds: float = 0.0

    def add(self, step: Step) -> None:
        self.steps += 1
        self.loss += step.loss
        self.grad_norm += step.grad_norm
        self.data_seconds += step.data_seconds
        self.seconds += step.seconds

    def metrics(self, *, batch_size: int) -> dict[str, float]:
        return {
            "loss": self.loss / self.steps,
            "grad_norm": self.grad_norm / self.steps,
            "samples_per_s": self.steps * batch_size / self.seconds,
            "data_wait": self.data_seconds / self.seconds,
        }


def train(job: Job, context: Context) -> Outcome:
    """Train from the last checkpoint of the job's state directory until done or asked to stop."""
    torch.set_num_threads(job.cfg.execution.threads)
    directory = job.state_directory
    with directory.hold("writer") if context.is_writer else nullcontext():
        context.sum([0.0])  # nobody reads the state before the writer holds it
        worker = Worker.start(job, context)
        worker.resume()
        outcome = worker.run()
        if outcome == "done" and context.is_writer:
            worker.finish()
        if worker.journal is not None:
            worker.journal.close()
        context.sum([0.0])  # nobody leaves before the writer is done
    return outcome


@dataclass(slots=True)
class Worker:
    """The objects of one worker's run."""

    job: Job
    context: Context
    parts: Parts
    state: TrainState
    module: nn.Module
    """The policy as wrapped for this world size; its forward exchanges gradients."""
    interval: Interval
    journal: Journal | None
    """Open in the writer only."""

    @classmethod
    def start(cls, job: Job, context: Context) -> "Worker":
        """Build everything, and let DDP settle its buckets before any state that counts is loaded."""
        parts = Parts.build(job)
        policy = parts.policy.to(context.device).train()
        state = TrainState.fresh(policy, job.cfg.train)
        worker = cls(job, context, parts, state, context.wrap(policy), Interval(), None)
        # DDP rebuilds its buckets after the first backward pass, which changes the order of its sums: from here on
        # a fresh start and a resume add in the same order.
        for _ in range(2):
            worker._backward(step=0)
        policy.zero_grad(set_to_none=True)
        return worker

    def resume(self) -> None:
        """Take over the newest checkpoint, the same on every rank."""
        folder = self.job.state_directory.checkpoints
        step = self.context.from_writer(checkpoint.last_step(folder))
        if step:
            found = checkpoint.load(checkpoint.path_of(folder, step))
            self.state.load(found.tensors, step=step, where=str(found.path))
            self.interval = Interval(**found.notes)
        if self.context.is_writer:
            self.journal = Journal(self.job.state_directory.journal)
            self.journal.truncate_after(step)

    def run(self) -> Outcome:
        """Take steps until the last one, or until a rank was asked to stop."""
        cfg, every = self.job.cfg.train, self.job.cfg.execution
        while self.state.step < cfg.steps:
            taken = self.take_step()
            self.interval.add(taken)
            step, last = self.state.step, self.state.step == cfg.steps
            if step % every.log_every == 0 or last:
                rate = learning_rate(step - 1, total_steps=cfg.steps, cfg=cfg.optimizer)
                self.record(step, {**self.interval.metrics(batch_size=cfg.batch_size), "lr": rate})
                self.interval = Interval()
            if step % every.validate_every == 0 or last:
                self.record(step, self.validate())
            if step % every.checkpoint_every == 0 or last or taken.stop:
                self.save()
            if taken.stop and not last:
                # For the process that started the workers: a request alone would not prove that a checkpoint exists.
                artifacts.write_json(self.job.state_directory.preempted, {"step": step})
                return "preempted"
        return "done"

    def take_step(self) -> Step:
        """One optimizer step."""
        cfg, state, started = self.job.cfg.train, self.state, time.perf_counter()
        share, data_seconds, uids = self._backward(state.step)
        loss, stop = self.context.sum([share, float(self.context.wants_stop())])
        grad_norm = float(nn.utils.clip_grad_norm_(state.policy.parameters(), cfg.optimizer.clip_norm))
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise DataError(
                f"train: expected a finite loss and gradient, found {loss} and {grad_norm} at step {state.step + 1} on "
                f"samples {uids[:8]}. Lower train.optimizer.lr, or look for outliers in the report of validate."
            )
        set_learning_rate(state.optimizer, learning_rate(state.step, total_steps=cfg.steps, cfg=cfg.optimizer))
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.ema.update(state.parameters(), step=state.step)
        return Step(loss, grad_norm, data_seconds, time.perf_counter() - started, bool(stop))

    def _backward(self, step: int) -> tuple[float, float, list[int]]:
        """Add up the gradients of one step; returns this rank's share of the loss, data seconds and sample uids."""
        cfg, context = self.job.cfg, self.context
        size = cfg.train.batch_size // context.world_size
        begin, end = context.rank * size, (context.rank + 1) * size
        loss, data_seconds, uids = 0.0, 0.0, []
        for micro, first in enumerate(range(begin, end, cfg.execution.micro_batch)):
            last = min(first + cfg.execution.micro_batch, end)
            started = time.perf_counter()
            batch = self.parts.training.batch(step, first, last).to(context.device)
            data_seconds += time.perf_counter() - started
            torch.manual_seed(int(keyed.words(cfg.seed, "dropout", step, micro, context.rank, count=1)[0] >> 1))
            with without_sync(self.module) if last < end else nullcontext():
                error = weighted_error(self.module(batch), batch)
                # DDP averages over ranks; the factor makes that average the sum over the whole batch.
                (error * context.world_size).backward()
            loss += error.item()
            uids += batch.sample_uid_B.tolist()
        return loss, data_seconds, uids

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The flow loss of the averaged weights on the held-out samples; every rank takes a part."""
        loss = self.context.sum([self._validation_share(self.parts.validation)])[0]
        if not math.isfinite(loss):
            raise DataError(
                f"train: expected a finite validation loss, found {loss} at step {self.state.step}. Lower "
                f"train.optimizer.lr, or look for outliers in the report of the validate stage."
            )
        return {"validation_loss": loss}

    def _validation_share(self, order: ValidationOrder) -> float:
        policy, size = self.state.policy, self.job.cfg.execution.micro_batch
        weights = weights_for_bundle(self.state)
        policy.eval()
        loss = 0.0
        for number, first in enumerate(range(0, len(order), size)):
            if number % self.context.world_size == self.context.rank:
                batch = order.batch(first, min(first + size, len(order))).to(self.context.device)
                loss += weighted_error(functional_call(policy, weights, (batch,)), batch).item()
        policy.train()
        return loss

    def record(self, step: int, metrics: dict[str, float]) -> None:
        """Add a row of metrics to the journal."""
        if self.journal is not None:
            self.journal.append(step, metrics)

    def save(self) -> None:
        """Write a checkpoint, from the writer only: every rank holds the same state."""
        if self.journal is not None:
            # The rows before a checkpoint are never written again, so they reach the disk before it.
            self.journal.sync()
            checkpoint.save(
                self.job.state_directory.checkpoints,
                step=self.state.step,
                tensors=self.state.tensors(),
                notes=asdict(self.interval),
                keep=self.job.cfg.execution.keep_checkpoints,
            )

    def finish(self) -> None:
        """Write the bundle and mark the state as done."""
        parts, directory = self.parts, self.job.state_directory
        digest = bundle.save(
            directory.bundle,
            weights=weights_for_bundle(self.state),
            config=parts.bundle_config,
            norm_stats=parts.norm_stats,
            tokenize=parts.tokenize,
            passport=self.job.passport,
        )
        parameters = sum(value.numel() for value in self.state.parameters().values())
        summary = {"steps": self.state.step, "parameters": parameters, "samples": len(parts.training.samples)}
        artifacts.write_json(directory.done, {**summary, "bundle_digest": digest})


def weighted_error(loss: FlowLoss, batch: Batch) -> torch.Tensor:
    """This micro-batch's part of the step's loss: its weighted errors over the weight of the whole step."""
    error = (loss.error_BPHA * batch.weight_BPHA).sum() / batch.weight_total
    share = batch.weight_BPHA.sum() / batch.weight_total
    return error + share * sum(loss.auxiliary.values()) if loss.auxiliary else error
