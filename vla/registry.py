"""A folder is a registry: the file name is the value in `params.yaml`, and `ls` is the menu.

`vla/formats`, `vla/policies` and `vla/envs` hold one file per choice. Adding a choice is adding a file; nothing
is imported until it is chosen, so a heavy dependency of one choice costs the others nothing.
"""

import difflib
import importlib
import pkgutil
from types import ModuleType
from typing import Literal

from vla.errors import ConfigError

Folder = Literal["formats", "policies", "envs"]


def names(folder: Folder) -> list[str]:
    """The choices of a folder, sorted."""
    package = importlib.import_module(f"vla.{folder}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def find(folder: Folder, name: str) -> ModuleType:
    """The module `vla/<folder>/<name>.py`; raises ConfigError with the nearest choice when there is none."""
    choices = names(folder)
    if name not in choices:
        raise ConfigError(
            f"vla/{folder}: expected one of {', '.join(choices)}, found {name!r}.{did_you_mean(name, choices)} "
            f"To add a choice, add the file vla/{folder}/{name}.py."
        )
    return importlib.import_module(f"vla.{folder}.{name}")


def did_you_mean(word: str, choices: list[str]) -> str:
    """` Did you mean 'x'?` with the nearest choice, or nothing."""
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
