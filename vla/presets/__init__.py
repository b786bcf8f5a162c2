"""Settings that belong together, by name: each file here overrides parts of `params.yaml` for one published setting.

A file says what it is for, which data it needs, what it costs and where its numbers come from; nothing of that was
measured here unless it says so.
"""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from vla import artifacts
from vla.config import Config, flatten
from vla.errors import ConfigError
from vla.registry import did_you_mean

FOLDER = Path(__file__).parent
REPLACED = frozenset({"policy", "data", "rollout.settings", "train.optimizer.lr_scales"})
"""Mappings that a preset replaces as a whole, because their keys depend on a choice among them or are free."""


class Preset(Config):
    """One file."""

    what: str
    data: str
    memory: str
    """By `vla plan`."""
    cost: str
    expected: str
    """And who has measured it."""
    source: tuple[str, ...]
    """Where the numbers come from."""
    dimensions: Mapping[str, int] = {}
    """Sizes of the data, for a plan without them."""
    shapes: Mapping[str, Any] = {}
    """Parts of section `policy` that a pretrained model's own files say, for a plan without them."""
    overrides: Mapping[str, Any]
    """Sections of `params.yaml`, as far as they change."""


def names() -> list[str]:
    """All presets, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read(name: str) -> Preset:
    """Raises ConfigError with the nearest name when there is none."""
    if name not in names():
        raise ConfigError(
            f"presets: expected one of {', '.join(names())}, found {name!r}.{did_you_mean(name, names())}"
        )
    file = _file(name)
    return Preset.parse(yaml.safe_load(file.read_text(encoding="utf-8")), where=str(file))


def merged(params: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with a preset's overrides; neither is changed."""
    return _merged(params, overrides, ())


def _merged(params: Mapping[str, Any], overrides: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    result = dict(params)
    for key, value in overrides.items():
        here = (*path, key)
        result[key] = _merged(params[key], value, here) if _goes_on(params.get(key), value, here) else value
    return result


def apply(name: str, file: Path) -> list[str]:
    """Change the parameter file as a preset says and keep its comments; returns a line for every changed value."""
    editor = _editor()
    params: CommentedMap = editor.load(file.read_text(encoding="utf-8"))
    before = flatten(yaml.safe_load(file.read_text(encoding="utf-8")))
    _change(params, editor.load(_file(name).read_text(encoding="utf-8"))["overrides"], ())
    with io.StringIO() as text:
        editor.dump(params, text)
        artifacts.write_text(file, _with_gaps(text.getvalue()))
    after = flatten(yaml.safe_load(file.read_text(encoding="utf-8")))
    return list(changes(before, after))


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two flattened parameter files, in the order of the second."""
    for key, value in after.items():
        if key not in before:
            yield f"{key}: {value} (new)"
        elif before[key] != value:
            yield f"{key}: {before[key]} -> {value}"
    yield from (f"{key}: {value} (gone)" for key, value in before.items() if key not in after)


def _editor() -> YAML:
    """Reads and writes YAML with its comments, as this project writes it."""
    editor = YAML()
    editor.preserve_quotes, editor.width = True, 120
    editor.representer.add_representer(
        type(None), lambda made, _: made.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return editor


def _change(params: CommentedMap, overrides: CommentedMap, path: tuple[str, ...]) -> None:
    """What `merged` does, in place."""
    for key, value in overrides.items():
        here = (*path, key)
        if _goes_on(params.get(key), value, here):
            _change(params[key], value, here)
        else:
            params[key] = value
            if comment := params.ca.items.get(key, [None] * 4)[2]:
                comment.column = 0  # one space behind the new value, wherever the old one ended


def _goes_on(current: Any, value: Any, path: tuple[str, ...]) -> bool:
    """Whether a value is merged into the current one instead of taking its place."""
    return isinstance(current, Mapping) and isinstance(value, Mapping) and ".".join(path) not in REPLACED


def _with_gaps(text: str) -> str:
    """An empty line before every section: that of a replaced one has gone with its last comment."""
    lines: list[str] = []
    for line in text.splitlines():
        begins = line[:1].isalpha() or line.startswith("#")
        within = bool(lines) and lines[-1].startswith("#")
        if begins and lines and lines[-1] and not within:
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"


def _file(name: str) -> Path:
    return FOLDER / f"{name}.yaml"
