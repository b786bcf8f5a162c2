"""Stage `train`: from dataset, statistics and settings to a bundle.

The workers write to a state directory that outlives crashes; this stage starts them, shows and tracks their progress,
and copies the finished result to its outputs. Under torchrun each worker is this stage, and rank 0 does the rest too.
"""

import argparse
import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import ClassVar

from vla import artifacts, workspace
from vla.config import flatten
from vla.data.manifest import Manifest
from vla.errors import CheckpointError, LaunchError, Preempted
from vla.models import bundle
from vla.periodic import repeated
from vla.tracking import passport
from vla.tracking.store import DatasetRecord
from vla.tracking.tracker import Tracker, TrackingConfig
from vla.training import begin, checkpoint, distributed, job, launch, launch_settings, progress
from vla.training.export import export
from vla.training.job import Job, JobConfig
from vla.training.state_directory import Identity, StateDirectory

log = logging.getLogger(__name__)
HEARTBEAT_S = 1.0


class Config(JobConfig):
    """Sections that stage `train` reads."""

    tracking: TrackingConfig

    untracked: ClassVar[frozenset[str]] = frozenset({"execution", "tracking"})
    """Where the curves are shown decides no number either."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How to begin: words of a person, no parameters, as they decide no number."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--resume",
        nargs="?",
        type=Path,
        const=True,
        default=False,
        metavar="STATE",
        help="insist on a checkpoint to go on from; STATE, the state directory that you mean, must be this training's",
    )
    either.add_argument(
        "--overwrite", action="store_true", help="remove what there is of this training and start from nothing"
    )


def run(  # noqa: PLR0913  # one parameter per file of the stage
    cfg: Config,
    *,
    dataset: Path,
    episodes: Path,
    norm_stats: Path,
    features: Path,
    policy: Path,
    training: Path,
    metrics: Path,
    loss: Path,
    resume: bool | Path = False,
    overwrite: bool = False,
) -> None:
    """Train, or continue an interrupted training of the same parameters, data and code.

    Writes the bundle to `policy`, the run's records to `training`, a summary to `metrics` and the curve to `loss`.
    `resume` insists on continuing one, in the state directory that it may name; `overwrite` removes it first.
    Raises Preempted when asked to stop before the end.
    """
    bundle.parse_policy(cfg.policy, where="params.yaml: policy")
    identity = job.identify(cfg, dataset=dataset, episodes=episodes, norm_stats=norm_stats, features=features)
    outputs = {"policy": policy, "training": training, "metrics": metrics, "loss": loss}
    with _torchrun_worker(cfg) as context:
        directory = _state_directory(identity, context, resume=resume, overwrite=overwrite)
        made = _job(cfg, identity, directory, dataset=dataset, episodes=episodes, norm_stats=norm_stats)
        if context is not None:
            _work_beside_others(cfg, made, context, outputs, resume=bool(resume))
            return
        job.check_split(cfg.train, workers=cfg.execution.workers)
        with _supervised(cfg, made, resume=bool(resume)) as tracker:
            if not directory.done.is_file():
                launch.launch(made)
            _check_outcome(directory)
            export(made, tracker, **outputs)


@contextmanager
def _torchrun_worker(cfg: Config) -> Iterator[distributed.Context | None]:
    """This process's place among the workers that torchrun has started; None where it has not."""
    if not distributed.launched_by_torchrun():
        yield None
        return
    launch_settings.complete()
    execution = cfg.execution
    with distributed.torchrun(execution.device, timeout=execution.timeout) as context, context.catching_signals():
        yield context


def _state_directory(
    identity: Identity, context: distributed.Context | None, *, resume: bool | Path, overwrite: bool
) -> StateDirectory:
    root = workspace.local_store() / "state"
    is_writer = context is None or context.is_writer
    if overwrite and is_writer:
        begin.overwrite(root, identity)
    if context is not None:
        root.mkdir(parents=True, exist_ok=True)
        context.check_shared(root)  # and nobody looks for the state before the writer has removed it
    found = begin.find_state(root, identity, resume=resume, describe=is_writer)
    if context is not None:
        context.sum([0.0])  # nobody reads the state before the writer has described it
    return found


def _job(
    cfg: Config, identity: Identity, directory: StateDirectory, *, dataset: Path, episodes: Path, norm_stats: Path
) -> Job:
    papers = passport.of_training(cfg.tracked(), identity.inputs, episodes=episodes, code=identity.code)
    if directory.described("code") != identity.code:
        papers["code"]["begun_with"] = directory.described("code")
    return Job(
        cfg=JobConfig(**{name: getattr(cfg, name) for name in JobConfig.model_fields}),
        dataset=dataset.resolve(),
        episodes=episodes.resolve(),
        norm_stats=norm_stats.resolve(),
        state=directory.path,
        frames=job.frames_folder(),
        code=identity.code,
        passport=papers,
        origin=job.origin_path(cfg),
    )


def _work_beside_others(
    cfg: Config, made: Job, context: distributed.Context, outputs: Mapping[str, Path], *, resume: bool
) -> None:
    """Under torchrun this stage is a worker; the writer does what a starting process does as well."""
    directory = made.state_directory
    job.check_split(cfg.train, workers=context.world_size)
    context.stop_file = directory.stop
    with _supervised(cfg, made, resume=resume) if context.is_writer else nullcontext() as tracker:
        # The writer alone has looked whether a finished result is intact.
        if not context.from_writer(directory.done.is_file()):
            launch.train(made, context)
        _check_outcome(directory)
        if tracker is not None:
            export(made, tracker, **outputs)


@contextmanager
def _supervised(cfg: Config, made: Job, *, resume: bool) -> Iterator[Tracker]:
    """What the starting process does while workers train: hold the state, pass signals on, show and track progress."""
    directory = made.state_directory
    with directory.hold("driver"):
        step = _last_intact_step(directory)
        if not directory.done.is_file():
            if step:
                log.info("resuming at step %d of %d", step, made.steps)
            elif resume:
                raise CheckpointError(
                    f"{directory.checkpoints}: expected an intact checkpoint to go on from, found damaged ones only, "
                    f"which are set aside. To start from nothing, leave --resume out."
                )
        with (
            _passing_on_signals(directory.stop),
            _heartbeat(directory.heartbeat),
            progress.shown(directory, total_steps=made.steps),
            _tracked(cfg, made) as tracker,
        ):
            yield tracker


def _last_intact_step(directory: StateDirectory) -> int | None:
    """The step to go on from, after removing what an interrupted training has left half done."""
    with directory.hold("writer"):  # workers outlive a killed driver by a moment
        artifacts.remove_leftovers(directory.path)
        for said in (directory.stop, directory.preempted, directory.failure):
            said.unlink(missing_ok=True)
        _forget_damaged_result(directory)
        return checkpoint.newest_intact(directory.checkpoints)


def _forget_damaged_result(directory: StateDirectory) -> None:
    """A finished training whose bundle was damaged since goes on from its last checkpoint, which makes it again."""
    if directory.done.is_file() and bundle.digest_of(directory.bundle) != directory.summary()["bundle_digest"]:
        log.warning("%s: expected the finished bundle, found a damaged one. Making it again.", directory.bundle)
        directory.done.unlink()


def _tracked(cfg: Config, made: Job) -> Tracker:
    manifest = Manifest.read(made.dataset)
    return Tracker.start(
        cfg.tracking,
        journal=made.state_directory.journal,
        state=made.state,
        params=flatten(cfg.tracked()),
        tags={"mlflow.runName": f"{cfg.policy['name']}-{made.state.name[:8]}", "fingerprint": made.state.name},
        dataset=DatasetRecord(cfg.data.name, manifest.digest, source=str(manifest.source.get("kind", manifest.format))),
    )


def _check_outcome(directory: StateDirectory) -> None:
    """Raise unless the training is done."""
    if directory.done.is_file():
        return
    if directory.preempted.is_file():
        step = artifacts.read_json(directory.preempted, made_by="vla train")["step"]
        raise Preempted(f"stopped at step {step} after a checkpoint. 'dvc repro' continues from there.")
    step = checkpoint.last_step(directory.checkpoints)
    raise LaunchError(
        f"{directory.path}: expected a finished training, found one that ended without a reason; its last checkpoint "
        f"is of step {step}. Run 'dvc repro' to continue it."
    )


@contextmanager
def _passing_on_signals(stop: Path) -> Iterator[None]:
    """On SIGTERM or Ctrl-C ask the workers, who may be on other machines, to stop after a checkpoint.

    A second Ctrl-C interrupts at once.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.touch()
        if number == signal.SIGINT:
            log.info("stopping after a checkpoint; Ctrl-C again stops at once")
            signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heartbeat(file: Path) -> AbstractContextManager[None]:
    """Show workers on other machines that this process lives."""

    def beat() -> None:
        with file.open("r+b") as stream:  # in place and of one length: a full disk does not stop it
            stream.write(b"%020d" % time.time_ns())

    file.touch()
    beat()
    return repeated(beat, every_s=HEARTBEAT_S, name="heartbeat")
