import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from dvc_projects import STAGES, make_project, set_params

from flows import reproduce
from flows.reproduce import Reproduction
from vla.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon raise")  # dvc's use of pygtrie


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return make_project(tmp_path_factory.mktemp("template") / "project")


@pytest.fixture
def project(template, tmp_path, monkeypatch) -> Path:
    shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def run(words: list[str]) -> tuple[dict[str, str | None], list[str], str]:
    """Stage -> status of its report (None without one), all output, and dvc's failure."""
    with Reproduction(words) as dvc:
        lines = list(dvc.until_over())
        reports = {stage: dvc.report(stage) for stage in STAGES}
        return {stage: report and report.status for stage, report in reports.items()}, lines, dvc.failure


def wait_until(condition, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def members(group: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def test_stages_come_in_the_order_of_the_graph(project):
    assert reproduce.stages_in_order() == STAGES


def test_stages_that_ran_have_a_report_and_unchanged_ones_have_none(project):
    assert run(reproduce.arguments())[0] == dict.fromkeys(STAGES, "done")
    states, lines, failure = run(reproduce.arguments())
    assert states == dict.fromkeys(STAGES)
    assert failure == ""
    assert lines[-1] == "Data and pipelines are up to date."


def test_a_changed_parameter_runs_its_stage_and_later_ones_only(project):
    run(reproduce.arguments())
    set_params(project, middle={"value": 5})
    assert run(reproduce.arguments())[0] == {"first": None, "middle": "done", "last": "done"}
    set_params(project)
    assert run(reproduce.arguments())[0] == dict.fromkeys(STAGES)


def test_force_runs_everything(project):
    run(reproduce.arguments())
    assert run(reproduce.arguments(force=True))[0] == dict.fromkeys(STAGES, "done")


def test_a_stage_that_fails_is_told_apart_from_those_that_dvc_did_not_reach(project):
    set_params(project, middle={"problem": "no such thing"})
    states, lines, failure = run(reproduce.arguments())
    assert states == {"first": "done", "middle": "failed", "last": None}
    assert "ValueError: no such thing" in lines
    assert "failed to reproduce 'middle'" in failure


def test_a_broken_pipeline_file_fails_before_any_stage_with_dvcs_message(project):
    (project / "dvc.yaml").write_text("stages: {first: {command: true}}")
    states, _, failure = run(reproduce.arguments())
    assert states == dict.fromkeys(STAGES)
    assert "'./dvc.yaml' validation failed" in failure
    with pytest.raises(ConfigError, match="validation failed"):
        reproduce.stages_in_order()


def test_following_a_stage_yields_its_output_until_it_has_ended(project):
    with Reproduction(reproduce.arguments()) as dvc:
        followed = {}
        for place, stage in enumerate(STAGES):
            before = list(dvc.until_reached(STAGES[place:]))
            followed[stage] = [*before, *dvc.until_ended(stage)]
            assert dvc.report(stage).status == "done"
        rest = list(dvc.until_over())
    for stage, lines in followed.items():
        assert f"hello from {stage}" in lines
        assert "progress 100 %" in lines
        assert "progress 50 %" not in lines
    assert not [line for line in rest if line.startswith("hello")]


def test_an_override_runs_an_experiment_and_leaves_the_files_here_alone(project):
    run(reproduce.arguments())
    before = contents(project)
    states, _, _ = run(reproduce.arguments(overrides=["middle.value=7"], experiment="trial-1"))
    assert states == {"first": None, "middle": "done", "last": "done"}
    assert contents(project) == before
    states, _, _ = run(reproduce.arguments(overrides=["last.value=9"], experiment="trial-2"))
    assert states == {"first": None, "middle": None, "last": "done"}
    assert reproduce.metrics("trial-2") == {"last.json": {"value": 9}}
    assert reproduce.metrics() == {"last.json": {"value": 2}}


def test_pictures_are_those_of_the_stages_with_metrics(project):
    run(reproduce.arguments())
    assert list(reproduce.pictures()) == ["plots/curve.png"]
    assert b'"name": "last"' in reproduce.pictures()["plots/curve.png"]


def test_code_that_an_experiment_would_not_see_is_refused(project):
    (project / "vla/new.py").write_text("")
    assert reproduce.arguments() == ["repro"]
    with pytest.raises(ConfigError, match=r"Run 'git add vla/new\.py' first"):
        reproduce.arguments(overrides=["first.value=1"])


def test_leaving_early_ends_dvc_and_the_stage_which_may_save_first(project, tmp_path):
    started, saved = tmp_path / "started", tmp_path / "saved"
    set_params(project, first={"seconds": 60, "started": str(started), "saved": str(saved)})
    with Reproduction(reproduce.arguments()) as dvc:
        wait_until(started.exists, seconds=20)
        group = dvc._process.pid
        assert len(members(group)) >= 2
        start = time.monotonic()
    assert time.monotonic() - start < 5
    assert saved.exists()
    assert members(group) == []


def test_a_group_that_does_not_listen_is_killed():
    process = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo ready; sleep 60; sleep 60"], stdout=subprocess.PIPE, process_group=0
    )
    assert process.stdout.readline() == b"ready\n"
    start = time.monotonic()
    reproduce.end_group(process, patience=0.5)
    assert 0.5 <= time.monotonic() - start < 3
    wait_until(lambda: members(process.pid) == [], seconds=3)
    process.stdout.close()


def test_nothing_survives_a_killed_driver(project, tmp_path):
    started = tmp_path / "started"
    set_params(project, first={"seconds": 60, "started": str(started)})
    code = (
        "from flows import reproduce\n"
        "with reproduce.Reproduction(['repro']) as dvc:\n"
        "    print(dvc._process.pid, flush=True)\n"
        "    list(dvc.until_over())\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    group = int(driver.stdout.readline())
    wait_until(started.exists, seconds=20)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    wait_until(lambda: members(group) == [], seconds=5)
