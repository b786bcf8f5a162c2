"""Playing rollouts: the policy acts, the environment answers, until the task succeeds or time is up.

Rollouts are played in waves, one of each task at a time, so that one environment per task is built in a process and
one forward pass serves all tasks. A wave is played by one process whatever their number, and alone decides the shapes
of its forward passes: results are bit-equal for any number of processes.
"""

import functools
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vla import lifeline, registry
from vla.envs import Environment, EnvironmentSettings
from vla.evaluation.film import Film
from vla.evaluation.runner import PolicyRunner
from vla.execution import Device
from vla.models import bundle as bundles
from vla.models.device import choose_device


@dataclass(frozen=True, slots=True)
class Trial:
    """One rollout to play."""

    task: str
    instruction: str
    """What the policy is told; another task's instruction in the swapped control."""
    seed: int
    """Of the environment's episode."""
    swapped: bool
    filmed: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a rollout ended."""

    trial: Trial
    success: bool
    steps: int
    """Control steps until success or until time was up."""


Wave = tuple[Trial, ...]
"""Rollouts of different tasks that are played side by side."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a process needs to know to play waves."""

    policy: Path
    environment: str
    settings: EnvironmentSettings
    execute_horizon: int
    seed: int
    device: Device
    videos: Path


class Player:
    """A bundle and the environments of one process."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._module: Any = registry.find("envs", job.environment)
        bundle = bundles.load(job.policy, device=choose_device(job.device))
        self._fps = bundle.config.fps
        self._runner = PolicyRunner(bundle, execute_horizon=job.execute_horizon, seed=job.seed)
        self._environments: dict[str, Environment] = {}

    def play(self, wave: Wave) -> list[Outcome]:
        """Play a wave, and write the films of its filmed trials."""
        # An environment takes tens of megabytes: those that the wave does not need go.
        self._environments = {
            trial.task: self._environments.get(trial.task) or self._module.make(trial.task, self._job.settings)
            for trial in wave
        }
        films = {trial: Film(trial.instruction, control_fps=self._fps) for trial in wave if trial.filmed}
        environments = [self._environments[trial.task] for trial in wave]
        outcomes = play(wave, environments, self._runner, max_steps=self._job.settings.max_steps, films=films)
        for outcome in outcomes:
            if outcome.trial in films:
                films[outcome.trial].save(self._job.videos, outcome.trial.task, success=outcome.success)
        return outcomes


def play(
    wave: Wave,
    environments: Sequence[Environment],
    runner: PolicyRunner,
    *,
    max_steps: int,
    films: Mapping[Trial, Film],
) -> list[Outcome]:
    """Play the trials of a wave side by side, each in its environment, to the end.

    A trial's task and seed decide its episode and the policy's noise: a swapped trial shares both with the one that was
    told the right words, so that only the words differ.
    """
    for environment, trial in zip(environments, wave, strict=True):
        environment.reset(trial.seed)
    runner.reset([trial.instruction for trial in wave], [(trial.task, trial.seed) for trial in wave])
    outcomes: dict[Trial, Outcome] = {}
    running = list(zip(wave, environments, strict=True))
    for step in range(max_steps):
        if runner.must_sense:
            runner.sense([environment.sense() for _, environment in running])
        for (trial, environment), action_A in zip(running, runner.next_actions(), strict=True):
            if trial in films:
                films[trial].watch(step, environment.picture)
            success = environment.step(action_A)
            if success or step + 1 == max_steps:
                outcomes[trial] = Outcome(trial, success, step + 1)
                if trial in films:
                    films[trial].watch(step + 1, environment.picture, last=True)
        rows = [row for row, (trial, _) in enumerate(running) if trial not in outcomes]
        if len(rows) < len(running):
            running = [running[row] for row in rows]
            runner.keep(rows)
        if not running:
            break
    return [outcomes[trial] for trial in wave]


def play_in_processes(job: Job, waves: Sequence[Wave], *, workers: int) -> Iterator[list[Outcome]]:
    """Play all waves in `workers` processes; yields the outcomes of each wave as it ends."""
    with (
        _single_threaded_children(),
        ProcessPoolExecutor(
            max_workers=min(workers, len(waves)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=lifeline.watch_process,
            initargs=lifeline.identity(),
        ) as pool,
    ):
        futures = [pool.submit(_play_wave, job, wave) for wave in waves]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _play_wave(job: Job, wave: Wave) -> list[Outcome]:
    return _player(job).play(wave)


@functools.cache
def _player(job: Job) -> Player:
    """The player of this process, built at its first wave."""
    torch.set_num_threads(1)
    return Player(job)


@contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Thread pools are sized when their library is loaded, so a child must find the limit in its environment."""
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in limits}
    os.environ.update(dict.fromkeys(limits, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
