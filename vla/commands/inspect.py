"""`vla inspect bundle|dataset|stats PATH ...`: what is in there, on one screen.

Each kind is a module with `run(*paths) -> str`, imported when it is asked for: a dataset is shown without torch.
"""

import argparse
import importlib
from pathlib import Path

KINDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "bundle": ("vla.commands.inspect_bundle", ("bundle",), "a policy's interface, normalisation and passport"),
    "dataset": ("vla.commands.inspect_dataset", ("dataset",), "contents of a dataset, and the parameters to use it"),
    "stats": ("vla.commands.inspect_stats", ("bundle", "dataset"), "whether a bundle's norm stats fit a dataset"),
}
"""Kind -> its module, the names of its paths, what it shows."""
EXAMPLES = {"bundle": "for example outputs/policy", "dataset": "for example data/dataset"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    menu = parser.add_subparsers(dest="kind", metavar="|".join(KINDS), required=True)
    for kind, (_, paths, summary) in KINDS.items():
        entry = menu.add_parser(kind, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        for name in paths:
            entry.add_argument(name, type=Path, metavar=name.upper(), help=f"the folder, {EXAMPLES[name]}")


def run(options: argparse.Namespace) -> str:
    """The text that the kind's module makes of the paths."""
    module, paths, _ = KINDS[options.kind]
    text: str = importlib.import_module(module).run(*(getattr(options, name) for name in paths))
    return text
