import json
import subprocess
from pathlib import Path

import pytest
from outcomes import INPUTS, PARAMS, PROTOCOL, episode_table, outcome

from vla import artifacts
from vla.errors import CheckpointError
from vla.tracking import passport


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return episode_table(tmp_path / "episodes.parquet", train="ca", validation="b")


def test_a_passport_names_data_parameters_code_and_libraries(table):
    made = passport.of_training(PARAMS, INPUTS, episodes=table, code="abc")
    assert made["data_name"] == "toy"
    assert made["inputs"] == INPUTS
    assert made["episode_contents"] == {"train": ["a", "c"], "validation": ["b"]}
    assert made["params"] == PARAMS
    assert made["code"]["digest"] == "abc"
    assert {"python", "torch", "mlflow", "ray", "dvc"} <= made["versions"].keys()


def test_equal_work_gives_an_equal_passport(table):
    first, second = (passport.of_training(PARAMS, INPUTS, episodes=table, code="abc") for _ in range(2))
    assert json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert passport.git_state() == {"commit": None, "dirty": None}


def test_code_that_differs_from_the_commit_is_noted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "vla").mkdir()
    (tmp_path / "vla" / "code.py").write_text("x = 1\n")
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    state = passport.git_state()
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    assert passport.git_state()["dirty"] is False
    (tmp_path / "vla" / "new.py").write_text("")
    assert passport.git_state()["dirty"] is True


def test_a_joined_passport_carries_what_later_stages_found(tmp_path):
    files = outcome(tmp_path, success=0.8, error_ratio=0.5)
    own = passport.read(files.policy)
    reports = {
        name: artifacts.read_json(getattr(files, name), made_by="a test")
        for name in ("validation", "evaluation", "rollout")
    }
    joined = passport.join(own, **reports)
    assert joined["bundle_digest"] == own["bundle_digest"]
    assert joined["validation"]["status"] == "passed"
    assert joined["evaluation"]["error_ratio"] == 0.5
    assert joined["rollout"]["tasks"] == {"open": 0.8, "close": 0.8}
    assert joined["rollout"]["swapped_success"] == 0.0
    assert joined["rollout"]["protocol"] == PROTOCOL
    changed = {**reports, "evaluation": {**reports["evaluation"], "mae": 0.3}}
    assert passport.join(own, **changed)["evaluation"]["digest"] != joined["evaluation"]["digest"]


def test_a_passport_without_its_parts_is_named(tmp_path):
    files = outcome(tmp_path)
    path = files.policy / "passport.json"
    artifacts.write_json(path, {"schema": passport.SCHEMA, "bundle_digest": "x"})
    with pytest.raises(CheckpointError, match="without data_name, inputs, episode_contents"):
        passport.read(files.policy)


def test_hashes_of_dvc_are_read_only_where_they_are_known_to_be_current(tmp_path, monkeypatch):
    lock = tmp_path / "dvc.lock"
    lock.write_text(
        "schema: '2.0'\n"
        "stages:\n"
        "  train:\n    cmd: x\n    outs:\n    - {path: outputs/policy, hash: md5, md5: abc.dir, size: 1}\n"
        "  register:\n    cmd: x\n    outs:\n    - {path: outputs/registration.json, hash: md5, md5: old, size: 1}\n"
    )
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert passport.dvc_outputs(lock) == {}
    monkeypatch.setenv("DVC_STAGE", "register")
    assert passport.dvc_outputs(lock) == {"outputs/policy": "abc.dir"}
    assert passport.dvc_outputs(tmp_path / "none.lock") == {}
