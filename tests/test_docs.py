"""The parameters that the documentation shows are ones that the stages accept."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from imports import ROOT

from vla import config, registry
from vla.data.inspection import ALL_CHECKS
from vla.stages import STAGES

PARAMS = config.read_params(ROOT / "params.yaml")
WHOLE = ("data", "download")
"""Sections that an example gives as a whole; of all others it shows some keys."""


def examples() -> list[Any]:
    """The YAML blocks of all pages, by page and line."""
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text()
        for block in re.finditer(r"^```yaml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, block.start()) + 2
            found.append(pytest.param(block[1], id=f"{page.name}:{line}"))
    return found


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with the keys of `changes`, at every depth."""
    both = {key: merged(values[key], changes[key]) for key in changes if isinstance(values.get(key), dict)}
    return {**values, **changes, **both}


@pytest.mark.parametrize("text", examples())
def test_an_example_is_accepted_by_every_stage(text: str) -> None:
    shown = yaml.safe_load(text)
    assert set(shown) <= set(PARAMS)
    values = {**merged(PARAMS, shown), **{name: shown[name] for name in WHOLE if name in shown}}
    for module, _ in STAGES.values():
        settings = importlib.import_module(module).Config
        settings.parse({name: values[name] for name in settings.model_fields}, where=text.partition("\n")[0])


@pytest.mark.parametrize("name", registry.names("formats"))
def test_every_format_has_an_example(name: str) -> None:
    assert f"format: {name}\n" in (ROOT / "docs/datasets.md").read_text()


def test_the_checks_that_are_listed_are_those_that_exist() -> None:
    text = (ROOT / "docs/datasets.md").read_text()
    table = text.partition("| check | what holds when nothing is found | else |\n|---|---|---|\n")[2].partition("\n\n")[
        0
    ]
    assert table.splitlines() == [f"| `{item.name}` | {item.promise} | {item.level} |" for item in ALL_CHECKS]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`((?:vla|tests|flows|docs|infra|benchmarks)/[\w/.-]+)`", page.read_text())
    assert not [name for name in named if not (ROOT / name).exists()]
