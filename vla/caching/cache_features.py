"""Stage `cache_features`: run a policy's frozen part once over all steps.

The stage is always there, so that the pipeline has one shape: with nothing to cache it leaves a marker that says why.
"""

from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from vla import config
from vla.data.features import FeatureMarker
from vla.data.sources import DataConfig
from vla.errors import ConfigError
from vla.transforms import TransformsConfig


class CacheFeaturesConfig(config.Config):
    """Section `cache_features`."""

    enabled: bool
    """Whether the frozen part runs here once instead of in every training step."""


class PolicyName(config.Config):
    """The one key of section `policy` that this stage reads: another key may change without running it again."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(min_length=1)]


class Config(config.Config):
    """Parameters of the stage."""

    cache_features: CacheFeaturesConfig
    data: DataConfig
    policy: PolicyName
    transforms: TransformsConfig


def run(cfg: Config, *, dataset: Path, episodes: Path, norm_stats: Path, features: Path) -> None:
    """Write the feature cache; raises ConfigError when a policy without frozen part is to be cached."""
    del dataset, episodes, norm_stats
    if cfg.cache_features.enabled:
        raise ConfigError(
            f"params.yaml: cache_features.enabled: expected false for the policy {cfg.policy.name!r}, which has no "
            f"frozen part and so nothing to cache, found true. Set cache_features.enabled to false."
        )
    FeatureMarker(enabled=False, reason="cache_features.enabled is false").write(features)
