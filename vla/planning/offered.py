"""What the data offer a policy, where there may be no data yet: sizes come from the dataset, else from a person."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla.columns import Vector
from vla.config import Config
from vla.data.manifest import FILE_NAME
from vla.data.sources import DataConfig, open_dataset
from vla.errors import ConfigError
from vla.execution import ExecutionConfig
from vla.models.policy import Interface
from vla.training.job import TrainConfig
from vla.transforms import TransformsConfig

VOCABULARY = 32
"""Token ids that are assumed: some ten instructions have so many words."""


class PlannedConfig(Config):
    """The sections that a plan reads."""

    data: DataConfig
    transforms: TransformsConfig
    policy: dict[str, Any]
    train: TrainConfig
    execution: ExecutionConfig


class Dimensions(Config):
    """Sizes that `params.yaml` need not say."""

    state_dim: int | None = None
    action_dim: int | None = None
    vocabulary: int = VOCABULARY


def offered(cfg: PlannedConfig, given: Dimensions, *, dataset: Path | None) -> Interface:
    """What data and transforms offer the policy: given sizes first, then those of `dataset` where it is there.

    Raises ConfigError for a size that nothing says.
    """
    found = _dimensions_of(cfg.data, dataset)
    return Interface(
        views=tuple(cfg.data.columns.views),
        image_size=cfg.transforms.image_size,
        state_dim=_size("state_dim", given.state_dim, found, cfg.data.columns.state),
        action_dim=_size("action_dim", given.action_dim, found, cfg.data.columns.actions),
        max_tokens=cfg.transforms.max_tokens,
        vocabulary=given.vocabulary,
    )


def _dimensions_of(cfg: DataConfig, dataset: Path | None) -> Mapping[str, int]:
    """Of the downloaded dataset, where there is one that these settings read."""
    if dataset is None or not (dataset / FILE_NAME).is_file():
        return {}
    schema = open_dataset(cfg, dataset).schema
    return {"state_dim": schema.state_dim, "action_dim": schema.action_dim}


def _size(name: str, given: int | None, found: Mapping[str, int], columns: str | tuple[str, ...]) -> int:
    """A size as given, as found, or as the parts of columns say."""
    if given is not None:
        return given
    if name in found:
        return found[name]
    parts = Vector.parse(columns).parts
    open_ended = [part.column for part in parts if part.stop is None and not part.is_sum]
    if open_ended:
        raise ConfigError(
            f"vla plan: expected the size of {open_ended[0]!r}, found no dataset that says it. Give it as "
            f"--{name.replace('_', '-')}, or run 'dvc repro download' first."
        )
    return sum(1 if part.is_sum else (part.stop or 0) - (part.start or 0) for part in parts)
