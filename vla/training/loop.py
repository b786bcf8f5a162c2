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
from vla.models import bundle
from vla.models.policy import Batch, FlowLoss
from vla.tracking.journal import Journal
from vla.training import batch_digest, checkpoint
from vla.training.best import Best
from vla.training.compilation import compiled
from vla.training.determinism import deterministic
from vla.training.distributed import Context, without_sync
from vla.training.divergence import not_finite
from vla.training.feed import Feed
from vla.training.job import Job
from vla.training.machine import Machine, count_flops
from vla.training.meters import Interval, Step
from vla.training.objective import TIME_BINS, Passed, errors_by_time, sample_errors, weighted_error
from vla.training.optim import Schedule, clip_gradients, learning_rates, set_learning_rate
from vla.training.parts import Parts
from vla.training.precision import autocast, check_supported
from vla.training.recompute import recompute_blocks
from vla.training.self_checks import SelfChecks, check_frozen_at_end
from vla.training.state import TrainState, weights_for_bundle
from vla.training.validation import Validation

Outcome = Literal["done", "preempted"]


def train(job: Job, context: Context) -> Outcome:
    """Train from the last checkpoint of the job's state directory until done or asked to stop."""
    torch.set_num_threads(job.cfg.execution.threads)
    directory = job.state_directory
    holding = directory.hold("writer") if context.is_writer else nullcontext()
    with holding, deterministic(on=job.cfg.train.deterministic):
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
    best: Best
    machine: Machine
    interval: Interval
    journal: Journal | None
    """Open in the writer only."""

    @classmethod
    def start(cls, job: Job, context: Context) -> "Worker":
        """Build everything as it is before the first step."""
        check_supported(job.cfg.train.precision, context.device)
        cfg, parts = job.cfg, Parts.build(job)
        policy = parts.policy.to(context.device).train()
        state = TrainState.fresh(policy, cfg.train)
        schedule = Schedule(cfg.train.optimizer, job.steps, parts.training.steps_per_epoch)
        feed = Feed(parts.training, context, cfg.execution, steps=job.steps)
        validation = Validation(parts.validation, parts.sampling, context, cfg.execution.micro_batch)
        if cfg.execution.activation_checkpointing:
            recompute_blocks(policy)
        module = context.wrap(compiled(policy, context.device) if cfg.train.compile else policy)
        best = Best(cfg.train.best)
        machine = Machine(context, cfg.train.precision)
        return cls(job, context, parts, state, schedule, module, feed, validation, best, machine, Interval(), None)

    def resume(self) -> None:
        """Take over the newest checkpoint, the same on every rank."""
        folder = self.job.state_directory.checkpoints
        step = self.context.from_writer(checkpoint.last_step(folder))
        self.settle(step)
        if step:
            found = checkpoint.load(checkpoint.path_of(folder, step))
            self.state.load(found)
            self.interval = Interval(**found.notes["interval"])
            self.best.load(found.notes["best"])
        if self.context.is_writer:
            self.journal = Journal(self.job.state_directory.journal)
            self.journal.truncate_after(step)

    def settle(self, step: int) -> None:
        """Let DDP settle its buckets on the batch of a step, before any state that counts is loaded.

        It rebuilds them after the first backward pass, which changes the order of its sums: from here on a fresh start
        and a resume add in the same order.
        """
        batches = list(self.feed.batches(step))
        checks = self._checked(step, batches)
        shares = [self._backward(step, batches).share for _ in range(2)]
        checks.frozen_weights_rest(self.state)
        if step == 0:  # later on it would be that of weights that are about to be replaced
            checks.first_loss_is_plausible(self.context.sum([shares[0].item()])[0], batches)
        self.state.policy.zero_grad(set_to_none=True)
        if self.context.is_writer:
            checks.write(self.job.state_directory.self_checks, step=step)

    def _checked(self, step: int, batches: list[Batch]) -> SelfChecks:
        """What can be checked without an exchange of gradients: a policy at fault would hang or confuse that."""
        checks, config, device = SelfChecks(self.context), self.parts.bundle_config, self.context.device
        checks.findings += self.parts.findings
        checks.ranks_draw_differently(batches)
        checks.shards_make_the_batch(batches, self.feed.uids(step))
        checks.inputs_are_normalised(batches, {"actions": config.action_names, "state": config.state_names})

        def forward(batch: Batch) -> FlowLoss:
            with autocast(self.job.cfg.train.precision, device):
                return self.state.policy(batch)

        batch = batches[0].to(device)
        checks.policy_learns_what_counts(self.state.policy, batch, forward)
        self.machine.flops_per_sample = count_flops(self.state.policy, batch.first(1), forward)
        return checks

    def run(self) -> Outcome:
        """Take steps until the last one, or until a rank was asked to stop."""
        steps, every = self.job.steps, self.job.cfg.execution
        while self.state.step < steps:
            taken = self.take_step()
            self.interval.add(taken)
            step, last = self.state.step, self.state.step == steps
            if every.record_batches:
                self.record(step, {"batch_digest": float(taken.batch_digest)})
            if step % every.log_every == 0 or last:
                self.log(step)
            counts, is_best = self.best.is_due(step, last=last), False
            if step % every.validate_every == 0 or last or counts:
                is_best = self.validate(step, counts=counts)
            if step % every.checkpoint_every == 0 or last or taken.stop or is_best:
                self.save()
            if taken.stop and not last:
                # For the process that started the workers: a request alone would not prove that a checkpoint exists.
                artifacts.write_json(self.job.state_directory.preempted, {"step": step})
                return "preempted"
        return "done"

    def take_step(self) -> Step:
        """One optimizer step."""
        state, context, started, waited = self.state, self.context, time.perf_counter(), self.feed.waited
        passed = self._backward(state.step, self.feed.batches(state.step))
        largest, scale = self.job.cfg.train.optimizer.clip_norm, state.loss_scale
        norm = clip_gradients(state.policy.parameters(), largest=largest, scale=scale.factor)
        # The step's one wait for the device. All ranks decide alike on what they find.
        figures = torch.cat([torch.stack([passed.share, norm.double()]), passed.by_time_2K.flatten()])
        share, grad_norm, *by_time = figures.tolist()
        infinite = float(not math.isfinite(grad_norm))
        own = [share, infinite, float(context.wants_stop()), float(self.feed.digest), *by_time]
        loss, overflow, stop, digest, *by_time = context.sum(own)
        if not math.isfinite(loss) or (overflow and not scale.dynamic):
            raise not_finite(context, self.feed, passed.error_B, step=state.step, found=f"{loss} and {grad_norm}")
        state.step += 1
        scale.follow(overflow=bool(overflow), step=state.step)
        if not overflow:
            set_learning_rate(state.optimizer, self.schedule.rate(state.step - 1))
            state.optimizer.step()
            state.ema.update(state.parameters(), step=state.step)
        state.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - started
        waited = self.feed.waited - waited
        return Step(loss, grad_norm, waited, seconds, bool(stop), by_time, int(digest) % batch_digest.MODULUS)

    def _backward(self, step: int, batches: Iterable[Batch]) -> Passed:
        """Add up the gradients of one step's micro-batches, times the loss scale."""
        context, seed, precision = self.context, self.job.cfg.seed, self.job.cfg.train.precision
        share, errors = torch.zeros((), dtype=torch.float64, device=context.device), []
        by_time = torch.zeros(2, TIME_BINS, dtype=torch.float64, device=context.device)
        for micro, on_cpu in enumerate(batches):
            batch = on_cpu.to(context.device)
            torch.manual_seed(int(keyed.words(seed, "dropout", step, micro, context.rank, count=1)[0] >> 1))
            with without_sync(self.module) if micro + 1 < len(self.feed.slices) else nullcontext():
                with autocast(precision, context.device):
                    loss = self.module(batch)
                error = weighted_error(loss, batch)
                # DDP averages over ranks; the factor makes that average the sum over the whole batch.
                (error * (context.world_size * self.state.loss_scale.factor)).backward()
            share += error.detach()
            errors.append(sample_errors(loss, batch))
            by_time += errors_by_time(loss, batch)
        return Passed(share, torch.cat(errors), by_time)

    def log(self, step: int) -> None:
        """Add what the steps since the last row were like to the journal; every rank calls it."""
        found = self.interval.metrics(batch_size=self.job.cfg.train.batch_size)
        machine = self.machine.metrics(samples_per_s=found["samples_per_s"])
        rates = learning_rates(self.state.optimizer, self.schedule.rate(step - 1))
        self.record(step, {**found, **self.loader(), **machine, **rates, **self.state.loss_scale.metrics()})
        self.interval = Interval()

    def loader(self) -> dict[str, float]:
        """How fast batches are made, whether or not training waits for them."""
        rate = self.feed.samples_per_s()
        return {} if rate is None else {"loader_samples_per_s": rate}

    def validate(self, step: int, *, counts: bool) -> bool:
        """Measure the averaged weights on the held-out samples; returns whether they are the best that count so far."""
        found = self.validation.measure(self.state)
        self.record(step, found)
        return counts and self.best.offer(step, found)

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
                notes={"interval": asdict(self.interval), "best": self.best.notes(), **self.state.notes()},
                retention=checkpoint.Retention(execution.keep_checkpoints, execution.keep_every, self.best.step),
            )

    def finish(self) -> None:
        """Write the bundle, of the last weights or the best ones, and mark the state as done."""
        parts, directory = self.parts, self.job.state_directory
        check_frozen_at_end(self.state)
        self.best.take(self.state, directory.checkpoints)
        digest = bundle.save(
            directory.bundle,
            weights=weights_for_bundle(self.state),
            config=parts.bundle_config,
            norm_stats=parts.norm_stats,
            tokenize=parts.tokenize,
            passport=self.job.passport,
        )
        parameters = sum(value.numel() for value in self.state.parameters().values())
        summary = {"steps": self.job.steps, "parameters": parameters, "samples": len(parts.training.samples)}
        exported = {"exported_step": self.state.step, **self.best.summary()}
        artifacts.write_json(directory.done, {**summary, **exported, "bundle_digest": digest})
