"""What a checkpoint needs beside its weights to act: what its own files say, and what a person has to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vla.errors import CheckpointError, ConfigError
from vla.normalization import NormStats, Statistics

Layout = Literal["openpi", "lerobot"]
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
"""LeRobot's columns."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What a person says of a checkpoint; None where its own files are to be taken at their word."""

    data_name: str
    """Name of the data that it was trained on, in the bundle."""
    fps: float
    """Steps per second of that data."""
    tokenizer: Path | None = None
    """A `tokenizer.json`."""
    norm_stats: Path | None = None
    views: Mapping[str, str] = field(default_factory=dict)
    """View name -> column, in the order of the checkpoint's cameras."""
    state: str = STATE
    """Column."""
    actions: str = ACTION
    """Column."""
    state_names: Sequence[str] = ()
    action_names: Sequence[str] = ()
    delta_actions: tuple[int, int] | None = None
    """First action dimension that is relative to the state dimension of its number, and the one after the last."""
    action_horizon: int | None = None
    max_tokens: int | None = None
    vision_heads: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What a checkpoint's layout says beside its weights, in our words."""

    action_horizon: int
    num_steps: int
    max_tokens: int
    views: Mapping[str, str]
    """View name -> column."""
    norm_stats: NormStats
    """With the names of the dimensions in its provenance."""
    normalization: Mapping[str, Any]
    """Section `transforms.normalization`."""
    delta_actions: Sequence[Mapping[str, Any]] = ()
    """Section `transforms.delta_actions`."""
    notes: tuple[str, ...] = ()


def horizon(stated: Stated, found: int | None, *, where: str) -> int:
    """The predicted steps that the checkpoint's own file says, or else a person."""
    if stated.action_horizon is not None and found not in (None, stated.action_horizon):
        raise CheckpointError(
            f"{where}: expected --action-horizon {found}, as its own configuration says, found "
            f"{stated.action_horizon}. Leave the flag out."
        )
    steps = found if stated.action_horizon is None else stated.action_horizon
    if steps is None:
        raise CheckpointError(
            f"{where}: expected the number of predicted steps, found none: no weight depends on it. Give "
            f"--action-horizon, as in the configuration that it was trained with."
        )
    return steps


def with_names(stats: NormStats, *, state: Sequence[str], actions: Sequence[str]) -> NormStats:
    """The statistics of the named dimensions, the first ones: some checkpoints fill theirs up with zeros."""
    state_names, own_state = _named(stats, "state", state)
    action_names, own_actions = _named(stats, "actions", actions)
    provenance = {**stats.provenance, "state_names": state_names, "action_names": action_names}
    return replace(stats, state=own_state, actions=own_actions, recorded_actions=None, provenance=provenance)


def _named(
    stats: NormStats, quantity: Literal["state", "actions"], names: Sequence[str]
) -> tuple[list[str], Statistics]:
    values = stats.of(quantity)
    chosen = list(names) or stats.names(quantity)
    flag = "--state-names" if quantity == "state" else "--action-names"
    if len(chosen) > values.dims:
        raise ConfigError(
            f"{flag}: expected at most {values.dims} names, as many as there are statistics of, found {len(chosen)}. "
            f"Correct them."
        )
    return chosen, values.first(len(chosen))
