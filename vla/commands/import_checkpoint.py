"""`vla import-checkpoint SRC --out BUNDLE`: pi0 or pi0.5 of openpi or LeRobot as a bundle, to fine-tune or to act with.

A flag is needed only for what the checkpoint's own files do not say. See docs/policies.md.
"""

import argparse
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vla import assets
from vla.commands.flags import count, dimensions, positive
from vla.commands.places import require_new
from vla.errors import ConfigError
from vla.models.checkpoints import importing
from vla.models.checkpoints.settings import ACTION, STATE, Stated
from vla.paths import FileName

FILES = ("*.json", "*.safetensors")
"""What is fetched of a repository of the Hub."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="folder, or OWNER/NAME of the Hub with --revision")
    parser.add_argument("--revision", metavar="COMMIT", help="commit of OWNER/NAME, 40 hexadecimal digits")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the new bundle")
    parser.add_argument("--fps", type=positive, required=True, help="steps per second of the data it was trained on")
    parser.add_argument("--data-name", metavar="NAME", help="name of that data (default: the name of SRC)")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json (default: the one in SRC)")
    parser.add_argument(
        "--norm-stats", type=Path, metavar="FILE", help="norm_stats.json, where SRC has none or several"
    )
    parser.add_argument(
        "--view",
        action="append",
        default=[],
        metavar="NAME=COLUMN",
        help="once per camera, in the checkpoint's order (default: as the checkpoint calls them)",
    )
    parser.add_argument("--state", default=STATE, metavar="COLUMN", help=f"column of the state (default: {STATE})")
    parser.add_argument(
        "--actions", default=ACTION, metavar="COLUMN", help=f"column of the actions (default: {ACTION})"
    )
    parser.add_argument("--state-names", type=_words, default=(), metavar="A,B,...", help="names of the dimensions")
    parser.add_argument("--action-names", type=_words, default=(), metavar="A,B,...", help="names of the dimensions")
    parser.add_argument(
        "--delta-actions",
        type=dimensions,
        metavar="FIRST:END",
        help="action dimensions relative to the state dimensions of their numbers (openpi's DeltaActions)",
    )
    parser.add_argument("--action-horizon", type=count, metavar="STEPS", help="predicted steps, where no file says")
    parser.add_argument(
        "--max-tokens", type=count, metavar="TOKENS", help="length of prompts (default: the checkpoint's)"
    )
    parser.add_argument("--vision-heads", type=count, metavar="HEADS", help="of a SigLIP other than so400m")


def run(options: argparse.Namespace) -> str:
    """Raises the user's errors for a source that cannot be imported; the report says what was taken over."""
    require_new(options.out)
    root, source = _find(options.source, options.revision)
    stated = Stated(
        data_name=_data_name(options.data_name or Path(options.source).resolve().name),
        fps=options.fps,
        tokenizer=options.tokenizer,
        norm_stats=options.norm_stats,
        views=_views(options.view),
        state=options.state,
        actions=options.actions,
        state_names=options.state_names,
        action_names=options.action_names,
        delta_actions=options.delta_actions,
        action_horizon=options.action_horizon,
        max_tokens=options.max_tokens,
        vision_heads=options.vision_heads,
    )
    return str(importing.import_checkpoint(root, stated, options.out, source=source))


def _find(source: str, revision: str | None) -> tuple[Path, dict[str, Any]]:
    """The folder of the checkpoint, and what the passport says of it."""
    if revision is None:
        path = Path(source)
        if not path.is_dir():
            raise ConfigError(
                f"{source}: expected a folder, found none. Correct the path; for a repository of the Hub give "
                f"--revision with its commit."
            )
        return path, {"source": path.resolve().name}
    asset = assets.find(
        assets.AssetSource.parse({"source": source, "revision": revision}, where="SRC"), FILES, where="SRC"
    )
    return asset.root, {"source": source, "revision": revision}


def _data_name(name: str) -> str:
    """Known to be fit for a folder of the bundle before gigabytes are read."""
    try:
        return TypeAdapter(FileName).validate_python(name)
    except ValidationError:
        raise ConfigError(
            f"--data-name: expected ASCII letters, digits, '-', '_', '.', found {name!r}. Choose such a name."
        ) from None


def _views(words: list[str]) -> dict[str, str]:
    views: dict[str, str] = {}
    for word in words:
        name, _, column = word.partition("=")
        if not (name and column) or name in views or column in views.values():
            raise ConfigError(
                f"--view: expected NAME=COLUMN, each name and each column once, found {word!r}. Write, for example, "
                f"base=observation.images.front."
            )
        views[name] = column
    return views


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))
