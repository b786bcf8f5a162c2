"""A training job: the settings and files that decide it, and the objects that a worker builds from them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import torch
import yaml
from pydantic import Field

import vla
from vla import artifacts, keyed, workspace
from vla.config import Config
from vla.data.episodes import EpisodeTable
from vla.data.frames import Frames
from vla.data.loader import Samples, TrainingOrder, ValidationOrder, read_samples
from vla.data.manifest import Manifest
from vla.data.sources import DataConfig, open_dataset
from vla.data.windows import Windows
from vla.errors import ConfigError, DataError
from vla.execution import ExecutionConfig
from vla.formats import Recordings
from vla.models import bundle
from vla.models.bundle import BundleConfig
from vla.models.policy import FrozenEncoder, Policy
from vla.normalization import NormStats, Statistics
from vla.terms import PolicySpec
from vla.training.optim import OptimizerConfig
from vla.training.state_directory import Identity, StateDirectory
from vla.transforms import Processor, Tokenize, TransformsConfig

Count = Annotated[int, Field(gt=0)]


class TrainConfig(Config):
    """Section `train`."""

    steps: Count
    """Optimizer steps."""
    batch_size: Count
    """Samples per optimizer step, over all workers."""
    validation_samples: Count
    """Held-out samples that the validation loss is taken over (all of them where there are fewer)."""
    validation_times: Count
    """Flow times per held-out sample."""
    optimizer: OptimizerConfig
    ema: Annotated[float, Field(ge=0, lt=1)]
    """Decay of the average of weights that the bundle gets; 0 keeps the last weights."""


class JobConfig(Config):
    """The sections of params.yaml that a training reads."""

    data: DataConfig
    transforms: TransformsConfig
    policy: dict[str, Any]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    train: TrainConfig
    execution: ExecutionConfig


class Job(Config):
    """What a worker needs to run; plain values, so that it travels to other processes and machines as JSON."""

    cfg: JobConfig
    dataset: Path
    episodes: Path
    norm_stats: Path
    state: Path
    frames: Path
    code: str
    """Digest of the training code."""
    passport: dict[str, Any]

    @property
    def state_directory(self) -> StateDirectory:
        return StateDirectory(self.state)


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

    @classmethod
    def build(cls, job: Job) -> Self:
        """Read the data and initialise the policy; raises the user's errors before anything is trained."""
        cfg = job.cfg
        dataset = open_dataset(cfg.data, job.dataset)
        stats = read_norm_stats(job.norm_stats, dataset)
        table = EpisodeTable.read(job.episodes, "train")
        tokenize = Tokenize.train(table.instructions, cfg.transforms.max_tokens)
        config = BundleConfig(
            data_name=cfg.data.name,
            fps=dataset.schema.fps,
            state_names=dataset.schema.state_names,
            action_names=dataset.schema.action_names,
            views=tuple(cfg.data.columns.views),
            transforms=cfg.transforms,
            policy=cfg.policy,
        )
        module, policy_config = bundle.parse_policy(cfg.policy, where="params.yaml: policy")
        spec = module.make_spec(policy_config, bundle.make_interface(config, tokenize))
        policy = initial_policy(partial(module.build, policy_config, spec), seed=cfg.seed)
        processor = Processor.make(cfg.transforms, config.views, stats, tokenize)
        training = TrainingOrder(
            _samples(job, table, dataset, processor, spec),
            seed=cfg.seed,
            batch_size=cfg.train.batch_size,
            augment=cfg.transforms.augment,
        )
        return cls(config, stats, tokenize, spec, policy, training, _validation(job, dataset, processor, spec))


def initial_policy(build: Callable[[], tuple[Policy[Any], FrozenEncoder | None]], *, seed: int) -> Policy[Any]:
    """The policy with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(keyed.words(seed, "init", count=1)[0] >> 1))
        policy, _ = build()
    return policy


def read_norm_stats(path: Path, dataset: Recordings) -> NormStats:
    """The statistics, after comparing their dimensions with the dataset's."""
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
    return stats


def _samples(job: Job, table: EpisodeTable, dataset: Recordings, processor: Processor, spec: PolicySpec) -> Samples:
    columns = job.cfg.data.columns.plain()
    frames = Frames.open(
        job.frames,
        identity=artifacts.digest_of_value([Manifest.read(job.dataset).digest, columns, job.code]),
        table=table,
        dataset=dataset,
        processor=processor,
        limit_bytes=job.cfg.execution.cache_bytes,
    )
    windows = Windows.make(table.length_E, spec)
    return read_samples(table, dataset=dataset, processor=processor, windows=windows, frames=frames)


def _validation(job: Job, dataset: Recordings, processor: Processor, spec: PolicySpec) -> ValidationOrder:
    table, cfg = EpisodeTable.read(job.episodes, "validation"), job.cfg
    return ValidationOrder(
        _samples(job, table, dataset, processor, spec),
        seed=cfg.seed,
        num_samples=cfg.train.validation_samples,
        num_times=cfg.train.validation_times,
    )


def identify(cfg: JobConfig, *, dataset: Path, episodes: Path, norm_stats: Path, features: Path) -> Identity:
    """What decides this training's numbers."""
    inputs = {
        "dataset": Manifest.read(dataset).digest,
        "episodes": _digest(episodes, "validate"),
        "norm_stats": _digest(norm_stats, "norm_stats"),
        "features": _digest(features / "meta.json", "cache_features"),
    }
    return Identity(params=cfg.tracked(), inputs=inputs, code=training_code(cfg))


def training_code(cfg: JobConfig) -> str:
    """Digest of the code that stage `train` depends on by dvc.yaml; of all of `vla` outside such a project."""
    package = Path(vla.__file__).parent
    root, pipeline = package.parent, Path("dvc.yaml")
    if not pipeline.is_file():
        return artifacts.digest_of_files([package], root=root)
    deps = yaml.safe_load(pipeline.read_text())["stages"]["train"]["deps"]
    files = [root / fill_in(dep, cfg.plain()) for dep in deps if dep.startswith("vla/")]
    return artifacts.digest_of_files(files, root=root)


def fill_in(template: str, values: Mapping[str, Any]) -> str:
    """Replace each `${section.key}` by its value, as DVC does."""

    def look_up(match: re.Match[str]) -> str:
        value: Any = values
        for key in match[1].split("."):
            value = value[key]
        return str(value)

    return re.sub(r"\$\{([\w.]+)\}", look_up, template)


def check_split(cfg: JobConfig, *, workers: int) -> None:
    """The total batch must divide over the workers."""
    if cfg.train.batch_size % workers:
        raise ConfigError(
            f"train.batch_size: expected a multiple of the number of workers ({workers}), found "
            f"{cfg.train.batch_size}. Change it, or execution.workers (torchrun: --nproc_per_node)."
        )


def frames_folder() -> Path:
    """Where decoded frames are kept."""
    return workspace.local_store() / "frames"


def _digest(path: Path, stage: str) -> str:
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found none. Run 'dvc repro {stage}'.")
    return artifacts.digest_of_file(path)
