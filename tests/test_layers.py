"""Imports go one way. A violation names the module and what it must not import."""

from pathlib import Path

import pytest
from imports import imported_by, modules, own_imports

LAYERS = [
    {"foundation"},
    {"transforms"},
    {"sim"},
    {"formats", "models", "tracking"},
    {"data", "policies", "envs"},
    {"caching", "training", "evaluation", "serving"},
    {"registration", "planning", "presets"},
    {"commands"},
    {"cli"},
]
"""A module imports from the layers above its own line, and from its own package; packages of one line never meet."""

HOMES = {
    "mlflow": ("vla.tracking", "vla.registration", "vla.serving"),
    "ray": ("vla.training.launch", "vla.training.distributed"),
    "prefect": ("flows",),
    "dvc": ("flows.reproduce",),
    "peft": ("vla.models.backbone",),
    "transformers": ("vla.models.backbone",),
    "mujoco": ("vla.sim",),
    "metaworld": ("vla.sim",),
}
"""Library -> the only modules (by the beginning of their name) that know it."""

REGISTRIES = ("vla.formats", "vla.policies", "vla.envs")
MODULES = sorted(modules().items())
RANK = {package: rank for rank, layer in enumerate(LAYERS) for package in layer}


def package_of(module: str) -> str:
    """The part of the project that a module belongs to."""
    parts = module.split(".")
    if parts[0] == "flows":
        return "flows"
    if parts[1:] in (["cli"], ["__main__"]):
        return "cli"
    return "transforms" if parts[1:] == ["transforms"] else parts[1] if is_package(parts) else "foundation"


def is_package(parts: list[str]) -> bool:
    return len(parts) > 1 and modules()[".".join(parts[:2])].name == "__init__.py"


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_go_down_only(module: str, path: Path):
    own = package_of(module)
    wrong = []
    for imported in own_imports(path):
        other = package_of(imported)
        if own == "flows":
            allowed = other in ("flows", "foundation")
        else:
            allowed = other == own or (other != "flows" and RANK[other] < RANK[own])
        if not allowed:
            wrong.append(f"{imported} ({other})")
    assert not wrong, f"{module} ({own}) imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_one_home(library: str):
    users = [module for module, path in MODULES if any(name.split(".")[0] == library for name in imported_by(path))]
    strangers = [module for module in users if not module.startswith(HOMES[library])]
    assert not strangers, f"{library} belongs to {', '.join(HOMES[library])}; {', '.join(strangers)} import it too"


def test_the_files_of_a_registry_folder_are_reached_by_name_only():
    direct = [
        f"{module} imports {imported}"
        for module, path in MODULES
        for imported in own_imports(path)
        if imported.startswith(tuple(f"{folder}." for folder in REGISTRIES))
    ]
    assert not direct, f"use vla.registry.find: {'; '.join(direct)}"


def test_every_package_has_its_place():
    placed = RANK.keys() | {"flows"}
    assert {package_of(module) for module, _ in MODULES} == placed
