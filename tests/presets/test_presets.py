import re
from pathlib import Path

import pytest
import yaml
from imports import ROOT

from vla import cli, presets
from vla.commands.presets import check
from vla.config import flatten, read_params
from vla.planning.memory import count_parameters
from vla.planning.offered import Dimensions, PlannedConfig, offered
from vla.planning.plan import shape_of_policy

PARAMS = read_params(ROOT / "params.yaml")
NAMES = presets.names()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project folder with the repository's own parameters."""
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_can_read_a_preset(name):
    check(presets.merged(PARAMS, presets.read(name).overrides), where=name)


@pytest.mark.parametrize("name", NAMES)
def test_the_policy_of_a_preset_can_be_built(name):
    preset = presets.read(name)
    params = presets.merged(PARAMS, preset.overrides)
    cfg = PlannedConfig.parse({key: params[key] for key in PlannedConfig.model_fields}, where=name)
    interface = offered(cfg, Dimensions.parse(preset.dimensions, where=name), dataset=None)
    policy, spec = shape_of_policy({**cfg.policy, **preset.shapes}, interface)
    assert spec.real_action_dim == preset.dimensions["action_dim"]
    assert count_parameters(policy).trained > 0
    assert cfg.train.batch_size % (cfg.execution.workers * cfg.execution.micro_batch) == 0 or name == "smoke"


@pytest.mark.parametrize("name", NAMES)
def test_applying_gives_the_merged_parameters_and_keeps_comments(folder, name):
    before, file = (folder / "params.yaml").read_text(), folder / "params.yaml"
    expected = presets.merged(PARAMS, presets.read(name).overrides)
    changed = presets.apply(name, file)
    assert yaml.safe_load(file.read_text()) == expected
    assert len(changed) == len(set(changed)) > 0
    assert {line.partition(":")[0] for line in changed} == differing(flatten(PARAMS), flatten(expected))
    for line in before.splitlines():
        if line.startswith(("#", "  raw_state:")):
            assert line in file.read_text().splitlines()
    assert presets.apply(name, file) == []


def differing(before, after):
    absent = object()
    return {key for key in before.keys() | after.keys() if before.get(key, absent) != after.get(key, absent)}


def test_sections_stay_apart(folder):
    presets.apply("pi05-libero", folder / "params.yaml")
    lines = (folder / "params.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if line[:1].isalpha() and number:
            assert lines[number - 1] == "" or lines[number - 1].startswith("#")


def test_lines_that_a_preset_does_not_name_stay_as_they_are(folder):
    before = (folder / "params.yaml").read_text().splitlines()
    changed = presets.apply("smoke", folder / "params.yaml")
    after = (folder / "params.yaml").read_text().splitlines()
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(pairs) == len(changed)
    comment = "# or null, and how long to train in epochs"
    assert (f"  steps: 1800 {comment}", f"  steps: 5 {comment}") in pairs


def test_a_preset_with_an_unknown_key_changes_nothing(folder, tmp_path, monkeypatch, capsys):
    own = tmp_path / "presets"
    own.mkdir()
    text = (presets.FOLDER / "smoke.yaml").read_text().replace("episodes_per_task", "episodes_per_tsk")
    (own / "smoke.yaml").write_text(text)
    monkeypatch.setattr(presets, "FOLDER", own)
    before = Path("params.yaml").read_text()
    assert cli.main(["presets", "apply", "smoke"]) == 2
    assert "Did you mean 'episodes_per_task'?" in capsys.readouterr().err
    assert Path("params.yaml").read_text() == before


def test_presets_are_listed_and_shown_and_applied_by_name(folder, capsys):
    assert cli.main(["presets"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == NAMES
    assert cli.main(["presets", "show", "pi05-libero"]) == 0
    shown = capsys.readouterr().out
    assert "expected  Not measured here. Published by openpi" in shown
    assert "lr: 5.0e-05" in shown
    assert cli.main(["presets", "apply", "smoke"]) == 0
    assert "  train.steps: 1800 -> 5" in capsys.readouterr().out
    assert cli.main(["presets", "show", "smok"]) == 2
    assert "Did you mean 'smoke'?" in capsys.readouterr().err


def test_what_a_preset_says_is_complete():
    for name in NAMES:
        preset = presets.read(name)
        for text in (preset.what, preset.data, preset.memory, preset.cost, preset.expected, *preset.source):
            assert len(text) > 10
            assert not text.isupper()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "smoke" and not name.startswith("tiny-")])
def test_a_preset_fits_a_gpu_of_80_gb_with_the_memory_that_it_states(folder, name, capsys):
    assert cli.main(["plan", "--preset", name, "--gpu", "h100"]) == 0
    shown = capsys.readouterr().out
    total = re.search(r"at most +([0-9.]+) GB", shown)
    assert total is not None
    assert f"{float(total[1]):.1f} GB" in presets.read(name).memory
    assert "\n  fits; the largest micro-batch" in shown
