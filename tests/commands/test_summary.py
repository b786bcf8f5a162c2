import json
from pathlib import Path

import pytest

from vla import cli, reports

PIPELINE = """
stages:
  evaluate: {cmd: python -m vla evaluate --metrics outputs/evaluation.json}
  rollout: {cmd: python -m vla rollout --metrics outputs/rollout.json}
  register: {cmd: python -m vla register --registration outputs/registration.json}
"""
ROLLOUT = {
    "status": "done",
    "success": 0.75,
    "interval": [0.5, 0.9],
    "episodes": 40,
    "tasks": {"drawer-open-v3": {"success": 0.95, "interval": [0.76, 0.99], "episodes": 20}},
    "swapped": {"success": 0.1, "episodes": 10, "tasks": {"drawer-open-v3": {"success": 0.0, "episodes": 5}}},
}
EVALUATION = {"episodes": 20, "mae": 0.05, "baseline_mae": 0.25, "error_ratio": 0.21}
REGISTRATION = {
    "run_id": "abc",
    "model": "vlaflow-policy",
    "version": "3",
    "alias": "champion",
    "decision": "better than version 2.",
    "tracking_uri": "sqlite:///mlflow.db",
}


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(reports.VARIABLE, raising=False)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


def summary(capsys) -> list[str]:
    assert cli.main(["summary"]) == 0
    return capsys.readouterr().out.splitlines()


def test_before_anything_ran_the_summary_names_the_commands(outputs, capsys):
    lines = summary(capsys)
    assert "Success in simulation: none yet. Run 'dvc repro rollout'." in lines
    assert "Offline error: none yet. Run 'dvc repro evaluate'." in lines
    assert "Registered: nothing yet. Run 'dvc repro register'." in lines


def test_the_summary_shows_success_per_task_error_and_version(outputs, capsys):
    for name, values in {"rollout": ROLLOUT, "evaluation": EVALUATION, "registration": REGISTRATION}.items():
        (outputs / f"{name}.json").write_text(json.dumps(values))
    rows = [line.split() for line in summary(capsys)]
    assert ["drawer-open-v3", "95%", "76%", "to", "99%", "20", "0%", "of", "5"] in rows
    assert ["all", "tasks", "75%", "50%", "to", "90%", "40", "10%", "of", "10"] in rows
    text = [" ".join(row) for row in rows]
    assert "mean absolute error 0.0500, of the mean action 0.2500" in text
    assert "Registered: vlaflow-policy version 3, alias champion" in text
    assert "better than version 2." in text


def test_rollouts_without_a_swapped_control_have_none_to_show(outputs, capsys):
    swapped = {"success": None, "interval": None, "episodes": 0, "tasks": {}}
    (outputs / "rollout.json").write_text(json.dumps(ROLLOUT | {"swapped": swapped}))
    assert ["all", "tasks", "75%", "50%", "to", "90%", "40", "-"] in [line.split() for line in summary(capsys)]


def test_with_reports_the_summary_says_which_stages_ran(outputs, capsys, monkeypatch):
    monkeypatch.setenv(reports.VARIABLE, str(outputs))
    with reports.reported("train"):
        pass
    rows = [line.split() for line in summary(capsys)]
    assert ["train", "ran", "0.0", "s"] in rows
    assert ["evaluate", "cached"] in rows
