"""The training loop: one worker's run from its state to the finished bundle, readable top to bottom.

It knows a `Context` (rank, device, sums) and nothing else about where it runs. A step is a pure function of the state
and the step number: batches, noise and dropout are keyed, so a resume is exact, and batches may be made ahead.
"""

import math
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import nn

from vla import artifacts, keyed
from vla.errors import DataError
from vla.models import bundle
from vla.models.policy import Batch
from vla.tracking.journal import Journal
from vla.training import checkpoint
from vla.training.distributed import Context, without_sync
from vla.training.feed import Feed
from vla.training.job import Job
from vla.training.meters import Interval, Step
from vla.training.objective import weighted_error
from vla.training.optim import Schedule, set_learning_rate
from vla.training.parts import Parts
from vla.training.self_checks import check_ranks_differ
from vla.training.state import TrainState, weights_for_bundle
from vla.training.validation import Validation

Outcome = Literal["done", "preempted"]
NAMED = 4
"""Samples that a message names."""


def train(job: Job, context: Context) -> Outcome:
    """Train from the last checkpoint of the job's state directory until done or asked to stop."""
    torch.set_num_threads(job.cfg.execution.threads)
    directory = job.state_directory
    with directory.hold("writer") if context.is_writer else nullcontext():
        context.sum([0.0])  # nobody reads the state before the writer holds it
        worker = Worker.start(job, context)
        with worker.feed:
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
    schedule: Schedule
    module: nn.Module
    """The policy as wrapped for this world size; its forward exchanges gradients."""
    feed: Feed
    validation: Validation
    interval: Interval
    journal: Journal | None
    """Open in the writer only."""

    @classmethod
    def start(cls, job: Job, context: Context) -> "Worker":
        """Build everything as it is before the first step."""
        cfg, parts = job.cfg, Parts.build(job)
        policy = parts.policy.to(context.device).train()
        state = TrainState.fresh(policy, cfg.train)
        schedule = Schedule(cfg.train.optimizer, cfg.train.steps, parts.training.steps_per_epoch)
        micro_batch, ahead = cfg.execution.micro_batch, cfg.execution.prefetch
        feed = Feed(parts.training, context, micro_batch=micro_batch, ahead=ahead, steps=cfg.train.steps)
        validation = Validation(parts.validation, parts.sampling, context, micro_batch)
        return cls(job, context, parts, state, schedule, context.wrap(policy), feed, validation, Interval(), None)

    def resume(self) -> None:
        """Take over the newest checkpoint, the same on every rank."""
        folder = self.job.state_directory.checkpoints
        step = self.context.from_writer(checkpoint.last_step(folder))
        self.settle(step)
        if step:
            found = checkpoint.load(checkpoint.path_of(folder, step))
            self.state.load(found)
            self.interval = Interval(**found.notes["interval"])
        if self.context.is_writer:
            self.journal = Journal(self.job.state_directory.journal)
            self.journal.truncate_after(step)

    def settle(self, step: int) -> None:
        """Let DDP settle its buckets on the batch of a step, before any state that counts is loaded.

        It rebuilds them after the first backward pass, which changes the order of its sums: from here on a fresh start
        and a resume add in the same order.
        """
        batches = list(self.feed.batches(step))
        check_ranks_differ(self.context, batches)
        for _ in range(2):
            self._backward(step, batches)
        self.state.policy.zero_grad(set_to_none=True)

    def run(self) -> Outcome:
        """Take steps until the last one, or until a rank was asked to stop."""
        cfg, every = self.job.cfg.train, self.job.cfg.execution
        while self.state.step < cfg.steps:
            taken = self.take_step()
            self.interval.add(taken)
            step, last = self.state.step, self.state.step == cfg.steps
            if step % every.log_every == 0 or last:
                rate = self.schedule.rate(step - 1)
                self.record(step, {**self.interval.metrics(batch_size=cfg.batch_size), **self.loader(), "lr": rate})
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
        cfg, state, started, waited = self.job.cfg.train, self.state, time.perf_counter(), self.feed.waited
        share = self._backward(state.step, self.feed.batches(state.step))
        loss, stop = self.context.sum([share, float(self.context.wants_stop())])
        grad_norm = float(nn.utils.clip_grad_norm_(state.policy.parameters(), cfg.optimizer.clip_norm))
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise DataError(
                f"train: expected a finite loss and gradient, found {loss} and {grad_norm} at step {state.step + 1} on "
                f"{self.feed.names(state.step, NAMED)} and others. Lower train.optimizer.lr, or look for outliers in "
                f"the report of validate."
            )
        set_learning_rate(state.optimizer, self.schedule.rate(state.step))
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.ema.update(state.parameters(), step=state.step)
        return Step(loss, grad_norm, self.feed.waited - waited, time.perf_counter() - started, bool(stop))

    def _backward(self, step: int, batches: Iterable[Batch]) -> float:
        """Add up the gradients of one step's micro-batches; returns this rank's share of the loss."""
        seed, context, loss = self.job.cfg.seed, self.context, 0.0
        for micro, on_cpu in enumerate(batches):
            batch = on_cpu.to(context.device)
            torch.manual_seed(int(keyed.words(seed, "dropout", step, micro, context.rank, count=1)[0] >> 1))
            with without_sync(self.module) if micro + 1 < len(self.feed.slices) else nullcontext():
                error = weighted_error(self.module(batch), batch)
                # DDP averages over ranks; the factor makes that average the sum over the whole batch.
                (error * context.world_size).backward()
            loss += error.item()
        return loss

    def loader(self) -> dict[str, float]:
        """How fast batches are made, whether or not training waits for them."""
        rate = self.feed.samples_per_s()
        return {} if rate is None else {"loader_samples_per_s": rate}

    def validate(self) -> dict[str, float]:
        """How the averaged weights do on the held-out samples."""
        return self.validation.measure(self.state)

    def record(self, step: int, metrics: dict[str, float]) -> None:
        """Add a row of metrics to the journal."""
        if self.journal is not None:
            self.journal.append(step, metrics)

    def save(self) -> None:
        """Write a checkpoint, from the writer only: every rank holds the same state."""
        if self.journal is not None:
            # The rows before a checkpoint are never written again, so they reach the disk before it.
            self.journal.sync()
            execution = self.job.cfg.execution
            checkpoint.save(
                self.job.state_directory.checkpoints,
                step=self.state.step,
                tensors=self.state.tensors(),
                notes={"interval": asdict(self.interval), **self.state.notes()},
                retention=checkpoint.Retention(newest=execution.keep_checkpoints, every=execution.keep_every),
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
