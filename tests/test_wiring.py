"""One name in five places: stage list, `dvc.yaml`, `params.yaml`, command line and modules agree about every stage."""

import ast
import importlib
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from imports import ROOT, modules, own_imports

from vla import cli, config, registry
from vla.dvc_file import artifact_paths, read_stages
from vla.stages import STAGES

PIPELINE = read_stages(ROOT / "dvc.yaml")
PARAMS = config.read_params(ROOT / "params.yaml")

PLUMBING = {
    "vla.artifacts": "writes what a stage computed",
    "vla.assets": "finds files that parameters name; they count by their digest or commit",
    "vla.config": "reads the parameters, which are tracked themselves",
    "vla.errors": "messages",
    "vla.execution": "where a stage runs, never what it computes",
    "vla.hub": "brings the files of a commit as they are",
    "vla.lifeline": "ends stages whose DVC is gone",
    "vla.models.device": "where a stage runs, never what it computes",
    "vla.paths": "refuses paths or passes them on",
    "vla.periodic": "shows how it goes",
    "vla.registry": "finds the chosen file, which is a dependency itself",
    "vla.reports": "tells who started the stage how it went",
    "vla.stages": "the list of stages",
    "vla.tracking": "shows and publishes results, makes none",
    "vla.training.batch_digest": "says what a step was trained on",
    "vla.training.begin": "which state a training goes on from",
    "vla.training.launch": "starts the workers; the same loop runs in each",
    "vla.training.launch_ray": "starts the workers; the same loop runs in each",
    "vla.training.launch_settings": "what libraries are told about the machine",
    "vla.training.progress": "shows how it goes",
    "vla.training.state_directory": "where a training keeps its state, and who may write it",
    "vla.training.worker_log": "messages",
    "vla.workspace": "where this machine keeps its state",
}
"""Modules, or packages, that decide no result of a stage, and why: a change to them reruns nothing."""

CHOICES = {
    "formats": ("data", "format"),
    "policies": ("policy", "name"),
    "envs": ("rollout", "environment"),
}
"""Registry folder -> the parameter that chooses a file of it."""


def module_of(stage: str) -> Any:
    return importlib.import_module(STAGES[stage][0])


def paths_of(entries: list[Any]) -> dict[str, dict[str, Any]]:
    """Path -> its options, of a list in dvc.yaml whose items are paths or mappings of one path."""
    items = [entry if isinstance(entry, dict) else {entry: {}} for entry in entries]
    return {path: options for item in items for path, options in item.items()}


def outputs_of(stage: str) -> dict[str, dict[str, Any]]:
    groups = [paths_of(PIPELINE[stage].get(key, [])) for key in ("outs", "metrics", "plots")]
    return {path: options for group in groups for path, options in group.items()}


def tracked_leaves(settings: type[config.Config]) -> set[str]:
    """What a stage's Config reads: its fields, or the keys of a field that reads only some of a section."""
    leaves = set()
    for name, field in settings.model_fields.items():
        kind = field.annotation
        partial = isinstance(kind, type) and issubclass(kind, config.Config) and kind.model_config["extra"] == "ignore"
        if name not in settings.untracked:
            leaves.update(f"{name}.{key}" for key in kind.model_fields) if partial else leaves.add(name)
    return leaves


def chosen(path: str) -> str:
    """A dependency with its parameter filled in, as DVC does."""
    for folder, (section, key) in CHOICES.items():
        path = path.replace(f"vla/{folder}/${{{section}.{key}}}", f"vla/{folder}/{PARAMS[section][key]}")
    return path


def registries_in(path: Path) -> set[str]:
    """The registry folders that a file takes a choice from: the constants in its calls `registry.find(folder, ...)`."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return {call.args[0].value for call in calls if ast.unparse(call.func) == "registry.find"}


def closure(stage: str) -> set[str]:
    """Every module that the stage's module imports, through all of them, with the chosen files of registries.

    What another choice imports counts too: the parameter may change, the list of dependencies does not.
    """
    known, seen, waiting = modules(), set(), [STAGES[stage][0]]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += own_imports(known[module])
            for folder in registries_in(known[module]):
                section, key = CHOICES[folder]
                waiting.append(f"vla.{folder}.{PARAMS[section][key]}")
                waiting += [name for choice in registry.names(folder) for name in imports_of_choice(folder, choice)]
    return seen


def imports_of_choice(folder: str, choice: str) -> set[str]:
    return own_imports(modules()[f"vla.{folder}.{choice}"])


def has_no_code(path: Path) -> bool:
    return all(isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)


def is_plumbing(module: str) -> bool:
    return any(module == part or module.startswith(f"{part}.") for part in PLUMBING)


def test_stage_list_pipeline_parameters_and_command_line_name_the_same_stages():
    assert list(PIPELINE) == list(STAGES)
    assert [section for section in PARAMS if section in STAGES] == list(STAGES)
    assert [word for word in cli.WORDS if word in STAGES] == list(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_of_a_stage_has_the_flags_of_its_run(stage):
    words = shlex.split(PIPELINE[stage]["cmd"])
    assert words[:4] == ["python", "-m", "vla", stage]
    assert list(artifact_paths(stage, pipeline=ROOT / "dvc.yaml")) == cli.artifacts_of(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_the_paths_of_the_command_are_the_declared_dependencies_and_outputs(stage):
    used = {path.as_posix() for path in artifact_paths(stage, pipeline=ROOT / "dvc.yaml").values()}
    deps = {path for path in PIPELINE[stage]["deps"] if not path.startswith("vla/")}
    assert used == deps | set(outputs_of(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_tracks_exactly_the_parameters_that_it_reads(stage):
    assert set(PIPELINE[stage]["params"]) == tracked_leaves(module_of(stage).Config)


@pytest.mark.parametrize("stage", STAGES)
def test_the_parameters_of_a_stage_parse_and_survive_a_round_trip(stage):
    settings = module_of(stage).Config
    cfg = settings.load(ROOT / "params.yaml")
    assert settings.parse(cfg.plain(), where="again") == cfg


def test_every_section_is_read_by_a_stage():
    read = {name for stage in STAGES for name in module_of(stage).Config.model_fields}
    assert set(PARAMS) == read


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_that_a_stage_depends_on_is_what_it_imports(stage):
    listed = [ROOT / chosen(path) for path in PIPELINE[stage]["deps"] if path.startswith("vla/")]
    declared = {file for path in listed for file in (path.rglob("*.py") if path.is_dir() else [path])}
    needed = {modules()[module] for module in closure(stage) if not is_plumbing(module)}
    empty = {file for file in declared if has_no_code(file)}
    missing = sorted(str(file.relative_to(ROOT)) for file in needed - declared)
    unused = sorted(str(file.relative_to(ROOT)) for file in declared - needed - empty)
    assert not missing, f"add to deps of {stage} in dvc.yaml: {', '.join(missing)}"
    assert not unused, f"remove from deps of {stage} in dvc.yaml: {', '.join(unused)}"


def test_outputs_are_never_committed_to_git():
    for path in [path for stage in STAGES for path in outputs_of(stage)]:
        ignored = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", path], cwd=ROOT, check=False)
        assert ignored.returncode == 0, f".gitignore lacks {path}"


def test_only_the_registration_is_kept_out_of_the_cache():
    # Any other out with cache: false, and persist: true, silently switch the stage's run cache off.
    options = {path: option for stage in STAGES for path, option in outputs_of(stage).items()}
    assert [path for path, option in options.items() if option.get("cache") is False] == ["outputs/registration.json"]
    assert not [path for path, option in options.items() if "persist" in option]


def test_no_stage_tracks_where_it_runs():
    for stage in STAGES:
        assert not [name for name in PIPELINE[stage]["params"] if name.split(".")[0] == "execution"]


def test_the_cache_of_dvc_shares_files_where_it_can_and_ignores_bytecode():
    assert 'type = "reflink,hardlink,copy"' in (ROOT / ".dvc/config").read_text()
    assert "__pycache__" in (ROOT / ".dvcignore").read_text()


def test_plumbing_names_modules_that_exist():
    assert set(PLUMBING) <= set(modules())


def test_dvc_reads_the_pipeline_as_we_do():
    assert list(yaml.safe_load((ROOT / "dvc.yaml").read_text())) == ["stages"]
