"""`vla inspect bundle PATH`: a policy's interface, its normalisation and what made it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vla.models import bundle as bundles
from vla.terms import PolicySpec

MADE_BY = ("inputs", "code")
"""Parts of a passport that are short enough to show."""


def run(path: Path) -> str:
    """Name and value, line by line."""
    bundle = bundles.load(path)
    config, normalization = bundle.config, bundle.config.transforms.normalization
    parameters = sum(value.numel() for value in bundle.policy.parameters())
    rows, columns = config.transforms.image_size
    lines = [
        ("digest", bundle.digest),
        ("policy", f"{bundle.policy_config.name}, {parameters:,} parameters"),
        ("dataset", f"{config.data_name}, {config.fps:g} steps per second"),
        ("views", f"{', '.join(config.views)} at {rows} x {columns}"),
        ("state", f"{len(config.state_names)}: {', '.join(config.state_names)} ({normalization.state})"),
        ("actions", f"{len(config.action_names)}: {', '.join(config.action_names)} ({normalization.actions})"),
        ("degenerate", _listed(bundle.degenerate)),
        *_window(bundle.spec),
        ("action horizon", f"{bundle.spec.action_horizon} steps, sampled in {bundle.policy_config.num_steps}"),
        *((f"made by {part}", _brief(bundle.passport[part])) for part in MADE_BY if part in bundle.passport),
    ]
    return "\n".join(f"{name:<16}{value}" for name, value in lines)


def _window(spec: PolicySpec) -> Iterator[tuple[str, str]]:
    """What a policy sees that sees more than one step, and so how often it acts."""
    if spec.window_steps > 1:
        yield "window", f"{spec.window_steps} observations, one every {spec.step_stride} steps"


def _brief(values: Mapping[str, object]) -> str:
    """Names and values, digests by their beginning."""
    return ", ".join(f"{name} {str(value)[:12]}" for name, value in values.items())


def _listed(names: Mapping[str, Sequence[str]]) -> str:
    """The names of each kind that has some."""
    return "; ".join(f"{kind} {', '.join(found)}" for kind, found in names.items() if found) or "none"
