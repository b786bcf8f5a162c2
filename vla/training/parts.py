"""What a worker builds from a job: the policy as initialised, and the batches that it trains and is measured on."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from vla import artifacts, keyed
from vla.action_errors import ActionScale, recorded_actions
from vla.assets import Asset
from vla.data.episodes import EpisodeTable
from vla.data.frames import Frames, stored_shape
from vla.data.held_out import ActionOrder, Chunks, HeldOut, ValidationOrder, held_out
from vla.data.lanes import Lanes
from vla.data.loader import Resident, TrainingOrder
from vla.data.manifest import Manifest
from vla.data.order import BlocksOrder, FullOrder
from vla.data.samples import Samples
from vla.data.sources import open_dataset
from vla.errors import DataError
from vla.formats import Recordings
from vla.models import bundle
from vla.models.bundle import BundleConfig
from vla.models.policy import FrozenEncoder, Policy, build_policy
from vla.normalization import NormStats, Statistics
from vla.terms import PolicySpec, PromptName
from vla.tokenization import Tokenize, TokenizerSource
from vla.training.fine_tuning import Origin
from vla.training.job import Job, find_pretrained, find_tokenizer
from vla.training.self_checks import Finding
from vla.transforms import Processor
from vla.video_backend import backend_versions


@dataclass(frozen=True, slots=True)
class Parts:
    """What a worker builds from a job."""

    bundle_config: BundleConfig
    norm_stats: NormStats
    tokenize: Tokenize
    spec: PolicySpec
    policy: Policy[Any]
    training: TrainingOrder
    validation: ValidationOrder
    sampling: ActionOrder | None
    """None where train.validation_actions is 0."""
    findings: tuple[Finding, ...] = ()
    """What a person should know before training."""

    @classmethod
    def build(cls, job: Job) -> Self:
        """Read the data and initialise the policy; raises the user's errors before anything is trained."""
        cfg = job.cfg
        dataset = open_dataset(cfg.data, job.dataset)
        module, policy_config = bundle.parse_policy(cfg.policy, where="params.yaml: policy")
        policy_config = policy_config.resolved()
        stats = read_norm_stats(job.norm_stats, dataset, horizon=policy_config.action_horizon)
        table = EpisodeTable.read(job.episodes, "train")
        origin = origin_of(job)
        tokenize = origin.tokenize if origin else make_tokenize(job, table.instructions, prompt=policy_config.prompt)
        tokenize = tokenize.with_length(cfg.transforms.max_tokens)
        config = BundleConfig(
            data_name=cfg.data.name,
            fps=dataset.schema.fps,
            state_names=dataset.schema.state_names,
            action_names=dataset.schema.action_names,
            views=tuple(cfg.data.columns.views),
            columns=cfg.data.columns,
            state_columns=dataset.schema.state_columns,
            transforms=cfg.transforms,
            policy=policy_config.plain(),
        )
        if origin:
            origin.check(config)
        spec = module.make_spec(policy_config, bundle.make_interface(config, tokenize))
        if origin:
            policy = bundle.build_empty(module, policy_config, spec)
            origin.load_weights(policy)
        else:
            policy = initial_policy(partial(build_policy, module, policy_config, spec), seed=cfg.seed)
            load_pretrained(policy, job)
        processor = Processor.make(cfg.transforms, config.views, stats, tokenize)
        train, validation = (
            Samples.make(split, spec, processor, supervise_padded=cfg.train.supervise_padded)
            for split in (table, EpisodeTable.read(job.episodes, "validation"))
        )
        training = training_order(job, train, dataset)
        measured = validation_orders(job, validation, dataset, stats=stats, num_steps=policy_config.num_steps)
        findings = tuple(origin.findings(stats, table.instructions, cfg.transforms.tokenizer)) if origin else ()
        return cls(config, stats, tokenize, spec, policy, training, *measured, findings)


def origin_of(job: Job) -> Origin | None:
    """The bundle that the training begins with, if it does."""
    return None if job.origin is None else Origin.read(job.origin, digest=job.passport["inputs"]["init_from"])


def make_tokenize(job: Job, instructions: Sequence[str], *, prompt: PromptName) -> Tokenize:
    """The tokenizer of the job's settings; `instructions` are those of the train split."""
    source, max_tokens = job.cfg.transforms.tokenizer, job.cfg.transforms.max_tokens
    if not isinstance(source, TokenizerSource):
        return Tokenize.train(instructions, max_tokens, prompt=prompt)
    found = find_tokenizer(source)
    _check_unchanged(found, job.passport["inputs"]["tokenizer"], what="tokenizer")
    return Tokenize.read(found.paths[0], max_tokens, prompt=prompt, pad=source.pad)


def load_pretrained(policy: Policy[Any], job: Job) -> None:
    """Put the weights into `policy` that a new training of it begins with, where it does not keep its random ones."""
    found = find_pretrained(job.cfg)
    if found is not None:
        _check_unchanged(found, job.passport["inputs"]["pretrained"], what="weights")
        policy.load_pretrained(found)


def _check_unchanged(asset: Asset, digest: str, *, what: str) -> None:
    """Raise DataError when files are not those that the training began with."""
    found = asset.digest()
    if found != digest:
        raise DataError(
            f"{asset.paths[0]}: expected the {what} as at the start of the training, {digest[:16]}, found "
            f"{found[:16]}. Run 'dvc repro -f -s train' to train with what is there."
        )


def training_order(job: Job, samples: Samples, dataset: Recordings) -> TrainingOrder:
    """The batches of the job's order; raises ConfigError where they do not fit into `execution.cache_bytes`."""
    cfg, execution = job.cfg.train, job.cfg.execution
    given = {name: source.weight for name, source in job.cfg.data.sources.items()}
    weights = {name: weight for name, weight in given.items() if weight is not None}
    common = {"seed": job.cfg.seed, "batch_size": cfg.batch_size}
    if cfg.order == "full":
        order = FullOrder(samples.table, weights=weights, **common)
        measured = (cfg.validation_samples + cfg.validation_actions) * samples.windows.spec.window_steps
        frames = _open_frames(job, samples, dataset, beside=measured)
        supply: Resident | Lanes = Resident.read(order, samples, dataset, frames)
        return TrainingOrder(samples, order, supply, augment=job.cfg.transforms.augment, **common)
    blocks = BlocksOrder(samples.table, weights=weights, buffer_steps=cfg.buffer_steps, **common)
    datasets = copies(dataset, execution.decode_threads)
    lanes = Lanes(blocks, samples, datasets, limit_bytes=execution.cache_bytes)
    return TrainingOrder(samples, blocks, lanes, augment=job.cfg.transforms.augment, **common)


def validation_orders(
    job: Job, samples: Samples, dataset: Recordings, *, stats: NormStats, num_steps: int
) -> tuple[ValidationOrder, ActionOrder | None]:
    """The held-out samples of the validation loss and of the error of sampled actions.

    Only what they observe is decoded. `num_steps`: Euler steps from noise to actions.
    """
    cfg, seed = job.cfg.train, job.cfg.seed
    scored_K, sampled_K = (held_out(samples, count) for count in (cfg.validation_samples, cfg.validation_actions))
    step_N = np.unique(samples.observed(np.concatenate([scored_K, sampled_K])))
    frames = _open_frames(job, samples, dataset, step_N=step_N)
    scored = HeldOut.read(samples, scored_K, dataset=dataset, frames=frames)
    loss = ValidationOrder(scored, seed=seed, num_times=cfg.validation_times)
    if not len(sampled_K):
        return loss, None
    recorded = recorded_actions(stats, delta=samples.processor.delta, where=str(job.norm_stats))
    sampled = HeldOut.read(samples, sampled_K, dataset=dataset, frames=frames)
    chunks = Chunks.read(samples, sampled_K, dataset=dataset)
    return loss, ActionOrder(sampled, chunks, ActionScale.of(recorded), seed, num_steps)


def copies(dataset: Recordings, count: int) -> Sequence[Recordings]:
    """The dataset and copies of it with nothing open: a thread needs its own."""
    return [dataset, *(copy.deepcopy(dataset) for _ in range(count - 1))]


def initial_policy(build: Callable[[], tuple[Policy[Any], FrozenEncoder | None]], *, seed: int) -> Policy[Any]:
    """The policy with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(keyed.words(seed, "init", count=1)[0] >> 1))
        policy, _ = build()
    return policy


def read_norm_stats(path: Path, dataset: Recordings, *, horizon: int) -> NormStats:
    """The statistics, after comparing their dimensions with the dataset's and their chunks with the policy's.

    Statistics name a horizon where it enters their numbers; those that are reused keep the one that they come with.
    """
    stats, schema = NormStats.read(path), dataset.schema
    expected: list[tuple[str, Statistics, int]] = [
        ("state", stats.state, schema.state_dim),
        ("actions", stats.actions, schema.action_dim),
    ]
    for quantity, values, dims in expected:
        if len(values.mean) != dims:
            raise DataError(
                f"{path}: {quantity}: expected {dims} dimensions as in {schema.name}, found {len(values.mean)}. "
                f"Run 'dvc repro norm_stats'."
            )
    counted = stats.provenance.get("action_horizon")
    if counted not in (None, horizon) and "reused" not in stats.provenance:
        raise DataError(
            f"{path}: expected statistics over chunks of {horizon} actions (policy.action_horizon), found those of "
            f"{counted}. Run 'dvc repro norm_stats'."
        )
    return stats


def _open_frames(
    job: Job, samples: Samples, dataset: Recordings, *, step_N: np.ndarray | None = None, beside: int = 0
) -> Frames:
    """The frames of the given steps, else of all; `beside` is the number of further steps that need room as well."""
    columns = {name: source.columns.plain() for name, source in job.cfg.data.sources.items()}
    decoder = backend_versions(job.cfg.data.video_backend)
    return Frames.open(
        job.frames,
        samples,
        dataset,
        identity=artifacts.digest_of_value([Manifest.read(job.dataset).digest, columns, decoder, job.code]),
        limit_bytes=job.cfg.execution.cache_bytes - beside * int(np.prod(stored_shape(samples))),
        step_N=step_N,
    )
