"""`vla presets`: list the presets; `show NAME` prints one, `apply NAME` writes its values into `params.yaml`."""

import argparse
import importlib
from collections.abc import Mapping
from typing import Any

import yaml

from vla import presets
from vla.config import PARAMS, SECTIONS, read_params
from vla.errors import ConfigError
from vla.models import bundle
from vla.registry import did_you_mean
from vla.stages import STAGES

HEADERS = ("what", "data", "memory", "cost", "expected")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    menu = parser.add_subparsers(dest="action", metavar="show|apply")
    for action, summary in (("show", "print what a preset is for and sets"), ("apply", "write it into params.yaml")):
        entry = menu.add_parser(action, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        entry.add_argument("name", metavar="NAME", help=", ".join(presets.names()))


def run(options: argparse.Namespace) -> str:
    """The text to print; raises ConfigError for a name that is none and for values that no stage takes."""
    if options.action is None:
        return "\n".join(f"{name:<20}{presets.read(name).what}" for name in presets.names())
    return _show(options.name) if options.action == "show" else _apply(options.name)


def check(params: Mapping[str, Any], *, where: str) -> None:
    """Raises ConfigError unless every stage, and the policy that is named, can read the parameters."""
    for section in params:
        if section not in SECTIONS:
            raise ConfigError(
                f"{where}: expected sections among {', '.join(SECTIONS)}, found {section!r}."
                f"{did_you_mean(section, list(SECTIONS))}"
            )
    for module, _ in STAGES.values():
        settings = importlib.import_module(module).Config
        settings.parse({name: params[name] for name in settings.model_fields if name in params}, where=where)
    bundle.parse_policy(params["policy"], where=f"{where}: policy")


def _show(name: str) -> str:
    preset = presets.read(name)
    facts = [f"{header:<10}{getattr(preset, header)}" for header in HEADERS]
    sources = [f"{'source':<10}{text}" for text in preset.source]
    sets = yaml.safe_dump(dict(preset.overrides), sort_keys=False, default_flow_style=None, width=100)
    return "\n".join([*facts, *sources, "", "in params.yaml:", "", sets.rstrip()])


def _apply(name: str) -> str:
    check(presets.merged(read_params(PARAMS), presets.read(name).overrides), where=f"preset {name}")
    changed = presets.apply(name, PARAMS)
    return "\n".join([f"{PARAMS}: {len(changed)} values changed by preset {name}", *(f"  {line}" for line in changed)])
