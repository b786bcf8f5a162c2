"""A training job: the settings and files that decide it, as plain values (vla/training/parts.py builds from them)."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

import vla
from vla import artifacts, assets, workspace
from vla.assets import Asset
from vla.config import Config
from vla.data.episodes import EpisodeTable
from vla.data.manifest import Manifest
from vla.data.order import OrderName, steps_per_epoch
from vla.data.sources import DataConfig
from vla.errors import ConfigError, DataError
from vla.execution import ExecutionConfig
from vla.models import bundle
from vla.tokenization import TokenizerSource
from vla.training.optim import OptimizerConfig
from vla.training.precision import Precision
from vla.training.state_directory import Identity, StateDirectory
from vla.transforms import TransformsConfig

Count = Annotated[int, Field(gt=0)]


class BestConfig(Config):
    """Section `train.best`."""

    metric: Literal["validation_loss", "validation_error"]
    """The smaller, the better (vla/training/validation.py)."""
    every: Count
    """Optimizer steps between two validations that count; the last step's counts as well."""


class TrainConfig(Config):
    """Section `train`."""

    steps: Count | None
    """Optimizer steps; null where `epochs` says how long to train."""
    epochs: Count | None
    """Passes over the train split, of whole batches; null where `steps` says it."""
    init_from: Path | None
    """A bundle whose weights the training begins with (vla/training/fine_tuning.py), by a path in the project; null for
    random ones. DVC does not watch it: when it changes, run `dvc repro -f -s train`."""
    batch_size: Count
    """Samples per optimizer step, over all workers."""
    order: OrderName
    """full: any sample may follow any other, for data whose decoded frames fit on the disk; blocks: what lies together
    is read together (vla/data/order.py)."""
    buffer_steps: Count
    """Samples that are shuffled together in each lane of the order blocks; memory grows with it."""
    supervise_padded: bool
    """Whether the repeated last action after an episode's end counts like any other, as in openpi's loss."""
    validation_samples: Count
    """Held-out samples that the validation loss is taken over (all of them where there are fewer)."""
    validation_times: Count
    """Flow times per held-out sample."""
    validation_actions: Annotated[int, Field(ge=0)]
    """Held-out samples for which a validation also samples actions, by the policy's num_steps, and compares them with
    the recorded ones; 0 for none."""
    optimizer: OptimizerConfig
    precision: Precision
    """Of the forward pass while training; weights, gradients, moments and averages are float32 in any case, and so are
    validation and the bundle, so that their numbers compare between precisions (vla/training/precision.py)."""
    compile: bool
    """Whether torch.compile makes the policy's kernels while training: faster where they are short, after minutes."""
    deterministic: bool
    """Whether GPUs must give equal bits for equal inputs, which costs speed; CPUs always do."""
    ema: Annotated[float, Field(ge=0, lt=1)]
    """Decay of the average of weights that the bundle gets; 0 keeps the last weights."""
    best: BestConfig | None
    """Whether the bundle gets the averaged weights of the best validation in place of the last ones."""

    @model_validator(mode="after")
    def _says_once_how_long(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(
                f"expected a number for one of steps and epochs and null for the other, found {self.steps} and "
                f"{self.epochs}. Correct them"
            )
        return self

    @model_validator(mode="after")
    def _best_is_measured(self) -> Self:
        if self.best is not None and self.best.metric == "validation_error" and not self.validation_actions:
            raise ValueError(
                "expected validation_actions above 0 with best.metric validation_error, found 0. Raise it, or choose "
                "validation_loss"
            )
        return self


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
    origin: Path | None = None
    """The bundle of `train.init_from`, wherever a worker runs."""

    @property
    def state_directory(self) -> StateDirectory:
        return StateDirectory(self.state)

    @cached_property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        cfg = self.cfg.train
        if cfg.epochs is None:
            return cfg.steps or 0
        samples = int(EpisodeTable.read(self.episodes, "train").length_E.sum())
        return cfg.epochs * steps_per_epoch(samples, cfg.batch_size)


def identify(cfg: JobConfig, *, dataset: Path, episodes: Path, norm_stats: Path, features: Path) -> Identity:
    """What decides this training's numbers."""
    inputs = {
        "dataset": Manifest.read(dataset).digest,
        "episodes": _digest(episodes, "validate"),
        "norm_stats": _digest(norm_stats, "norm_stats"),
        "features": _digest(features / "meta.json", "cache_features"),
    }
    if isinstance(cfg.transforms.tokenizer, TokenizerSource):
        inputs["tokenizer"] = find_tokenizer(cfg.transforms.tokenizer).digest()
    if origin := origin_path(cfg):
        inputs["init_from"] = bundle.verify(origin)["bundle_digest"]
    elif pretrained := find_pretrained(cfg):
        inputs["pretrained"] = pretrained.digest()
    return Identity(params=cfg.tracked(), inputs=inputs, code=training_code(cfg))


def origin_path(cfg: JobConfig) -> Path | None:
    """The bundle that `train.init_from` names, by a path in the main checkout where it is relative."""
    path = cfg.train.init_from
    return None if path is None else workspace.main_checkout() / path


def find_tokenizer(source: TokenizerSource) -> Asset:
    """The file that `transforms.tokenizer` names; raises DataError that lists where it has been looked for."""
    return assets.find(source, ["tokenizer.json"], where="transforms.tokenizer")


def find_pretrained(cfg: JobConfig) -> Asset | None:
    """The weights that a training of this policy begins with unless it begins with a bundle's; None for random ones."""
    _, policy = bundle.parse_policy(cfg.policy, where="params.yaml: policy")
    return policy.pretrained()


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


def check_split(cfg: TrainConfig, *, workers: int) -> None:
    """The total batch must divide over the workers."""
    if cfg.batch_size % workers:
        raise ConfigError(
            f"train.batch_size: expected a multiple of the number of workers ({workers}), found "
            f"{cfg.batch_size}. Change it, or execution.workers (torchrun: --nproc_per_node)."
        )


def frames_folder() -> Path:
    """Where decoded frames are kept."""
    return workspace.local_store() / "frames"


def _digest(path: Path, stage: str) -> str:
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found none. Run 'dvc repro {stage}'.")
    return artifacts.digest_of_file(path)
