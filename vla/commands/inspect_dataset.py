"""`vla inspect dataset PATH`: what a dataset consists of."""

from pathlib import Path

from vla.config import Config
from vla.data.manifest import Manifest
from vla.data.sources import DataConfig, open_dataset


class Settings(Config):
    """The section that says which columns of a dataset are what."""

    data: DataConfig


def run(path: Path) -> str:
    """Name and value, line by line."""
    manifest = Manifest.read(path)
    dataset = open_dataset(Settings.load().data, path)
    schema, episodes = dataset.schema, dataset.episodes()
    lengths = episodes["length"].to_pylist()
    instructions = sorted(set(episodes["instruction"].to_pylist()))
    lines = [
        ("digest", manifest.digest),
        ("format", f"{schema.format}, {len(manifest.files)} files, {sum(e.size for e in manifest.files):,} bytes"),
        ("episodes", f"{len(lengths)} with {sum(lengths):,} steps, {min(lengths)} to {max(lengths)} each"),
        ("robot", f"{schema.robot}, {schema.fps:g} steps per second"),
        ("views", ", ".join(f"{view} at {rows} x {columns}" for view, (rows, columns) in schema.views.items())),
        ("state", f"{schema.state_dim}: {', '.join(schema.state_names)}"),
        ("actions", f"{schema.action_dim}: {', '.join(schema.action_names)}"),
        (
            "instructions",
            f"{len(instructions)}: {'; '.join(instructions[:8])}{'; ...' if len(instructions) > 8 else ''}",
        ),
    ]
    return "\n".join(f"{name:<16}{value}" for name, value in lines)
