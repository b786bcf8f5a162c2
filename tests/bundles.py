"""Builders of tiny bundles with random weights, for tests of everything that acts with one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.columns import Columns
from vla.models import bundle
from vla.models.bundle import Bundle, BundleConfig
from vla.normalization import NormStats, Statistics
from vla.tokenization import Tokenize

INSTRUCTIONS = ("open the drawer", "press the button")
TINY = {"num_steps": 2, "width": 16, "heads": 2, "encoder_layers": 1, "expert_layers": 1}
"""Settings of tiny_vla."""


def statistics(dims: int) -> Statistics:
    """Dimension d: mean d / 10, standard deviation 0.5, values in [-1, 1]."""
    ones = np.ones(dims)
    return Statistics(
        mean=np.arange(dims) / 10,
        std=ones / 2,
        min=-ones,
        max=ones,
        q01=-ones * 0.9,
        q50=0 * ones,
        q99=ones * 0.9,
        count=100,
    )


def with_still(*, state: Sequence[int] = (), actions: Sequence[int] = ()) -> NormStats:
    """Norm stats of `a_bundle`'s dimensions, of which some never move: they are 0.3 throughout."""
    return NormStats(_held_still(statistics(3), state), _held_still(statistics(2), actions), {"method": "exact"})


def _held_still(stats: Statistics, dims: Sequence[int]) -> Statistics:
    plain: dict[str, Any] = stats.to_plain()
    for name in ("mean", "min", "max", "q01", "q50", "q99"):
        plain[name] = [0.3 if dim in dims else value for dim, value in enumerate(plain[name])]
    plain["std"] = [0.0 if dim in dims else value for dim, value in enumerate(plain["std"])]
    return Statistics.from_plain(plain, where="with_still")


def a_bundle(
    path: Path,
    *,
    state_names: Sequence[str] = ("x", "y", "z"),
    action_names: Sequence[str] = ("dx", "dy"),
    views: Sequence[str] = ("front", "wrist"),
    image_size: tuple[int, int] = (16, 32),
    action_horizon: int = 4,
    instructions: Sequence[str] = INSTRUCTIONS,
    fps: float = 10.0,
    seed: int = 0,
    norm_stats: NormStats | None = None,
    passport: dict[str, Any] | None = None,
    columns: Columns | None = None,
    state_columns: dict[str, int] | None = None,
    max_tokens: int = 6,
    policy: str = "tiny_vla",
    settings: dict[str, Any] | None = None,
) -> Bundle:
    """Save a randomly initialised tiny_vla, or a policy of its or the given settings, at `path` and load it.

    Its state is a whole column unless it is said.
    """
    usual = {view: f"observation.images.{view}" for view in views}
    columns = columns or Columns(state="observation.state", actions="action", views=usual)
    config = BundleConfig.parse(
        {
            "data_name": "toy",
            "fps": fps,
            "state_names": list(state_names),
            "action_names": list(action_names),
            "views": list(views),
            "columns": columns.plain(),
            "state_columns": state_columns or {"observation.state": len(state_names)},
            "transforms": {
                "image_size": list(image_size),
                "max_tokens": max_tokens,
                "normalization": {"state": "quantile", "actions": "min_max"},
                "augment": {"shift_px": 0},
            },
            "policy": {"name": policy, **(settings or {**TINY, "action_horizon": action_horizon})},
        },
        where="a_bundle",
    )
    module, policy_config = bundle.parse_policy(config.policy, where="a_bundle")
    tokenize = Tokenize.train(instructions, max_tokens, prompt=policy_config.prompt)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made, _ = module.build(policy_config, module.make_spec(policy_config, bundle.make_interface(config, tokenize)))
        for value in made.parameters():
            # A fresh policy's zero-initialised output would make every prediction equal to the noise.
            torch.nn.init.normal_(value, std=0.3)
    stats = norm_stats or NormStats(statistics(len(state_names)), statistics(len(action_names)), {"method": "exact"})
    bundle.save(
        path,
        weights=made.state_dict(),
        config=config,
        norm_stats=stats,
        tokenize=tokenize,
        passport=passport or {"seed": seed},
    )
    return bundle.load(path)
