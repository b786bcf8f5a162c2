"""The validate stage's checks applied to datasets of arrays."""

from pathlib import Path
from typing import Any

from builders import ArrayDataset, make_sources

from vla.data.checks import Finding
from vla.data.checks.listing import Listing
from vla.data.inspection import Inspection
from vla.data.validate import ValidateConfig, inspect

SETTINGS: dict[str, Any] = {
    "holdout": 0.2,
    "on_bad_episode": "stop",
    "timestamp_tolerance": 0.01,
    "frames": "all",
    "warn_only": [],
    "skip": [],
}


def inspected(data: Any, *, root: Path = Path("/nowhere"), **settings: object) -> Inspection:
    """What the stage finds in opened sources."""
    cfg = ValidateConfig.parse({**SETTINGS, **settings}, where="test")
    expected = {"state_dim": cfg.state_dim, "action_dim": cfg.action_dim}
    return inspect(data, cfg, [Listing(source, root, main=data.schema, **expected) for source in data.sources])


def findings(*datasets: ArrayDataset, **settings: object) -> list[Finding]:
    """What is found in one dataset, or in a mixture of several."""
    return list(inspected(make_sources(*datasets), **settings).findings)
