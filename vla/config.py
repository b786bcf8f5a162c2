"""Typed, frozen settings: sections of `params.yaml` parsed into the class beside the code that they configure.

A stage's `Config` names the sections that it reads as its fields, so one line says what the stage depends on:

    class Config(config.Config):
        data: DataConfig
        seed: int

Reading it takes those sections from the file and refuses wrong keys with the dotted path and the nearest
right one. A config never touches a device, the disk, the clock or argv.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from vla.errors import ConfigError
from vla.registry import did_you_mean
from vla.stages import STAGES

PARAMS = Path("params.yaml")
SECTIONS = ("seed", "data", "transforms", "policy", "tracking", "execution", *STAGES)
"""Sections that stages share, then one per stage."""


class Config(BaseModel):
    """Base of every settings class: frozen, unknown keys refused, attribute docstrings kept as field docs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    untracked: ClassVar[frozenset[str]] = frozenset({"execution"})
    """Sections that say where a stage runs, not what it computes: in no stage's `params:` and in no fingerprint."""

    @classmethod
    def load(cls, path: Path = PARAMS) -> Self:
        """The sections of the file at `path` that this class has as fields."""
        values = read_params(path)
        for name in values:
            if name not in SECTIONS:
                raise ConfigError(
                    f"{path}: expected sections among {', '.join(SECTIONS)}, found {name!r}."
                    f"{did_you_mean(name, list(SECTIONS))}"
                )
        missing = [name for name, field in cls.model_fields.items() if field.is_required() and name not in values]
        if missing:
            raise ConfigError(
                f"{path}: expected a section {missing[0]!r}, found {', '.join(values) or 'none'}. "
                f"Add the section; the repository's own params.yaml shows it."
            )
        return cls.parse({name: values[name] for name in cls.model_fields if name in values}, where=str(path))

    @classmethod
    def parse(cls, values: Any, *, where: str) -> Self:
        """Validate plain values; `where` names their source in the error."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(error, cls, where)) from None

    def plain(self) -> dict[str, Any]:
        """JSON-ready values of the whole tree; `parse` of them gives an equal config."""
        return self.model_dump(mode="json")

    def tracked(self) -> dict[str, Any]:
        """`plain` without the untracked sections: what decides the numbers."""
        return {name: value for name, value in self.plain().items() if name not in self.untracked}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def read_params(path: Path) -> dict[str, Any]:
    """The YAML mapping at `path`."""
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: expected a parameter file, found none. Run from the project folder.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: expected YAML, found {error}. Mend the line it names.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(values).__name__}.")
    return values


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """One line per wrong value: dotted path, what is wrong, what was found, the nearest right key."""
    lines = []
    for item in error.errors():
        path, parents = _follow(model, [str(part) for part in item["loc"]])
        dotted = ".".join(path) or "value"
        if item["type"] == "extra_forbidden":
            keys = sorted({name for parent in parents for name in parent.model_fields})
            lines.append(
                f"{where}: {dotted}: expected one of {', '.join(keys)}, found {path[-1]!r}."
                f"{did_you_mean(path[-1], keys)}"
            )
        elif item["type"] == "missing":
            lines.append(f"{where}: {dotted}: expected a value, found none. Add it.")
        else:
            lines.append(f"{where}: {dotted}: {_fault(item)}")
    return "\n".join(lines)


def _fault(item: ErrorDetails) -> str:
    """What is wrong with a value, and what it is, unless a validator of ours has said that or it is a whole section."""
    text = _lower_first(item["msg"].removeprefix("Value error, "))
    said = item["type"] == "value_error" and ("found " in text or isinstance(item["input"], dict))
    return text if said else f"{text}, found {item['input']!r}. Correct the value."


def _follow(model: type[BaseModel], location: list[str]) -> tuple[list[str], list[type[BaseModel]]]:
    """The path as the file has it, and the settings classes that the last part of it is a key of."""
    path, parents, models = [], [model], [model]
    for part in location:
        fields = [kind.model_fields[part] for kind in models if part in kind.model_fields]
        members = [kind for kind in models if part in _names_in_union(kind)]
        if members and not fields:
            # Pydantic names the member of a union that it tried, which the file does not.
            models = members
            continue
        path.append(part)
        parents = models
        if fields:
            models = [kind for field in fields for kind in _classes(field.annotation) if issubclass(kind, BaseModel)]
    return path, parents


def _names_in_union(model: type[BaseModel]) -> set[str]:
    """What pydantic may call the class as a member of a union: its name or the tag by which it is chosen."""
    literals = [field.annotation for field in model.model_fields.values() if get_origin(field.annotation) is Literal]
    return {model.__name__, *(str(value) for literal in literals for value in get_args(literal))}


def _classes(annotation: Any) -> list[type]:
    """The classes inside an annotation, through Optional, tuples and dicts."""
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation]
    return [kind for argument in get_args(annotation) for kind in _classes(argument)]


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
