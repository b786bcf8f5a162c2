"""`vla inspect bundle|dataset PATH`: what is in there, on one screen."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from vla.config import Config
from vla.data.manifest import Manifest
from vla.data.sources import DataConfig, open_dataset
from vla.models import bundle as bundles

MADE_BY = ("inputs", "code")
"""Parts of a passport that are short enough to show."""


class Settings(Config):
    """The section that says which columns of a dataset are what."""

    data: DataConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=["bundle", "dataset"])
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="the folder, for example outputs/policy or data/dataset"
    )


def run(options: argparse.Namespace) -> str:
    """Name and value, line by line."""
    rows = _bundle(options.path) if options.kind == "bundle" else _dataset(options.path)
    return "\n".join(f"{name:<16}{value}" for name, value in rows)


def _bundle(path: Path) -> list[tuple[str, str]]:
    bundle = bundles.load(path)
    config, normalization = bundle.config, bundle.config.transforms.normalization
    parameters = sum(value.numel() for value in bundle.policy.parameters())
    return [
        ("digest", bundle.digest),
        ("policy", f"{bundle.policy_config.name}, {parameters:,} parameters"),
        ("dataset", f"{config.data_name}, {config.fps:g} steps per second"),
        ("views", f"{', '.join(config.views)} at {_size(config.transforms.image_size)}"),
        ("state", f"{len(config.state_names)}: {', '.join(config.state_names)} ({normalization.state})"),
        ("actions", f"{len(config.action_names)}: {', '.join(config.action_names)} ({normalization.actions})"),
        ("degenerate", _listed(bundle.degenerate)),
        ("action horizon", f"{bundle.spec.action_horizon} steps, sampled in {bundle.policy_config.num_steps}"),
        *((f"made by {part}", _brief(bundle.passport[part])) for part in MADE_BY if part in bundle.passport),
    ]


def _dataset(path: Path) -> list[tuple[str, str]]:
    manifest = Manifest.read(path)
    dataset = open_dataset(Settings.load().data, path)
    schema, episodes = dataset.schema, dataset.episodes()
    lengths = episodes["length"].to_pylist()
    instructions = sorted(set(episodes["instruction"].to_pylist()))
    return [
        ("digest", manifest.digest),
        ("format", f"{schema.format}, {len(manifest.files)} files, {sum(e.size for e in manifest.files):,} bytes"),
        ("episodes", f"{len(lengths)} with {sum(lengths):,} steps, {min(lengths)} to {max(lengths)} each"),
        ("robot", f"{schema.robot}, {schema.fps:g} steps per second"),
        ("views", ", ".join(f"{view} at {_size(size)}" for view, size in schema.views.items())),
        ("state", f"{schema.state_dim}: {', '.join(schema.state_names)}"),
        ("actions", f"{schema.action_dim}: {', '.join(schema.action_names)}"),
        (
            "instructions",
            f"{len(instructions)}: {'; '.join(instructions[:8])}{'; ...' if len(instructions) > 8 else ''}",
        ),
    ]


def _brief(values: Mapping[str, object]) -> str:
    """Names and values, digests by their beginning."""
    return ", ".join(f"{name} {str(value)[:12]}" for name, value in values.items())


def _listed(names: Mapping[str, Sequence[str]]) -> str:
    """The names of each kind that has some."""
    return "; ".join(f"{kind} {', '.join(found)}" for kind, found in names.items() if found) or "none"


def _size(rows_columns: tuple[int, int]) -> str:
    return f"{rows_columns[0]} x {rows_columns[1]}"
