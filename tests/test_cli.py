import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from vla import cli, reports
from vla.errors import UserError
from vla.stages import STAGES

PROBE = """
from pathlib import Path
from vla import errors, reports
from vla.config import Config as Base

class Config(Base):
    seed: int

def add_arguments(parser):
    parser.add_argument("--twice", action="store_true", help="for a person")

def run(cfg, *, answer: Path, other_name: Path, twice: bool = False):
    reports.announce_run("probe", "run-7")
    what = other_name.name
    if what == "refuse":
        raise errors.DataError("data: expected 1, found 2. Mend it.")
    if what == "preempt":
        raise errors.Preempted("stopped at step 5.")
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "defect":
        raise ZeroDivisionError("ours")
    answer.parent.mkdir(parents=True, exist_ok=True)
    answer.write_text(str(cfg.seed) * (2 if twice else 1))
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project folder whose one stage, `probe`, does what its flag --other-name says."""
    (tmp_path / "cli_probe.py").write_text(PROBE)
    (tmp_path / "params.yaml").write_text("seed: 3\n")
    command = "python -m vla probe --answer outputs/answer --other-name well"
    (tmp_path / "dvc.yaml").write_text(f"stages: {{probe: {{cmd: {command}}}}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(STAGES, "probe", ("cli_probe", "a stage for tests"))
    monkeypatch.setitem(cli.WORDS, "probe", ("cli_probe", "a stage for tests"))
    yield tmp_path
    sys.modules.pop("cli_probe", None)


@pytest.fixture
def reported(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "reports"
    folder.mkdir()
    monkeypatch.setenv(reports.VARIABLE, str(folder))
    return folder


def test_help_is_quick_and_imports_nothing_heavy():
    code = """
import resource, sys
from vla.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, *({"torch", "mlflow", "pandas", "ray", "prefect", "dvc"} & set(sys.modules)))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, *heavy = shown.splitlines()[-1].split()
    assert all(word in shown for word in [*STAGES, "doctor", "summary"])
    assert heavy == []
    assert float(seconds) < 0.5


def test_a_stage_alone_takes_its_paths_from_dvc_yaml_and_its_parameters_from_params_yaml(project):
    assert cli.main(["probe"]) == 0
    assert (project / "outputs/answer").read_text() == "3"


def test_a_flag_overrides_the_path_of_dvc_yaml(project):
    assert cli.main(["probe", "--answer", "elsewhere"]) == 0
    assert (project / "elsewhere").read_text() == "3"
    assert not (project / "outputs").exists()


def test_a_stage_may_have_words_beside_its_paths_which_the_pipeline_does_not_say(project, capsys):
    assert cli.main(["probe", "--twice"]) == 0
    assert (project / "outputs/answer").read_text() == "33"
    assert cli.artifacts_of("probe") == ["answer", "other_name"]
    with pytest.raises(SystemExit):
        cli.main(["probe", "--help"])
    assert "for a person" in capsys.readouterr().out


def test_without_dvc_yaml_every_path_must_be_given(project, capsys):
    (project / "dvc.yaml").unlink()
    with pytest.raises(SystemExit) as end:
        cli.main(["probe", "--answer", "a"])
    assert end.value.code == 2
    assert "required: --other-name" in capsys.readouterr().err


def test_a_misspelt_word_gets_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["trian"])
    assert end.value.code == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_what_the_user_can_mend_is_one_message_and_exit_code_2(project, capsys):
    assert cli.main(["probe", "--other-name", "refuse"]) == 2
    assert capsys.readouterr().err == "vla probe: data: expected 1, found 2. Mend it.\n"


def test_a_wrong_parameter_is_one_message_and_exit_code_2(project, capsys):
    (project / "params.yaml").write_text("seed: many\n")
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err.startswith("vla probe: params.yaml: seed: ")


def test_a_place_that_cannot_be_written_is_one_message_and_exit_code_2(project, capsys):
    (project / "outputs").write_text("a file where a folder is needed")
    assert cli.main(["probe"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("vla probe: outputs: expected a place to read or write, found 'File exists'.")
    assert message.count("\n") == 1


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EFBIG, errno.ENOTDIR])
def test_errors_of_a_place_become_the_users(code):
    with pytest.raises(UserError, match=r"outputs/policy: expected"), cli.place_errors_explained():
        raise OSError(code, "some text", "outputs/policy")


def test_other_errors_of_the_system_stay_defects():
    with pytest.raises(ConnectionResetError), cli.place_errors_explained():
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_a_defect_keeps_its_traceback(project):
    with pytest.raises(ZeroDivisionError, match="ours"):
        cli.main(["probe", "--other-name", "defect"])


def test_a_preempted_stage_exits_with_75(project, capsys):
    assert cli.main(["probe", "--other-name", "preempt"]) == 75
    assert capsys.readouterr().err == "vla probe: stopped at step 5.\n"


def test_an_interrupted_stage_exits_with_130(project):
    assert cli.main(["probe", "--other-name", "interrupt"]) == 130


def test_an_output_that_cannot_be_written_is_refused_before_the_stage_runs(project, capsys):
    text = (project / "dvc.yaml").read_text().replace("well}", "well, outs: [outputs/answer]}")
    (project / "dvc.yaml").write_text(text)
    (project / "outputs").write_text("a file where a folder is needed")
    assert cli.main(["probe", "--other-name", "defect"]) == 2
    assert f"{project}/outputs: expected a place to read or write, found 'Not a directory'" in capsys.readouterr().err


def test_without_a_place_for_reports_none_is_written(project, monkeypatch):
    monkeypatch.delenv(reports.VARIABLE, raising=False)
    assert cli.main(["probe"]) == 0
    assert sorted(path.name for path in project.iterdir() if path.is_file()) == [
        "cli_probe.py",
        "dvc.yaml",
        "params.yaml",
    ]


def test_a_stage_that_ended_well_leaves_a_report_with_its_mlflow_run(project, reported):
    assert reports.read(reported, "probe") is None
    assert cli.main(["probe"]) == 0
    report = reports.read(reported, "probe")
    assert (report.status, report.run_id, report.message) == ("done", "run-7", "")
    assert 0 <= report.seconds < 60
    assert json.loads((reported / "probe.ended").read_text())["run_id"] == "run-7"


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        ("refuse", "failed", "data: expected 1, found 2. Mend it."),
        ("preempt", "preempted", "stopped at step 5."),
        ("interrupt", "failed", "KeyboardInterrupt"),
    ],
)
def test_the_report_says_how_a_stage_ended(project, reported, what, status, message):
    cli.main(["probe", "--other-name", what])
    report = reports.read(reported, "probe")
    assert (report.status, report.message) == (status, message)


def test_the_report_of_a_stage_without_room_names_the_place(project, reported):
    (project / "outputs").write_text("")
    cli.main(["probe"])
    assert reports.read(reported, "probe").message.startswith("outputs: expected a place")


def test_a_stage_that_has_only_started_has_no_status_but_may_have_its_run(reported):
    with reports.reported("probe"):
        reports.announce_run("probe", "run-1")
        report = reports.read(reported, "probe")
        assert (report.status, report.run_id) == (None, "run-1")


def test_of_several_torchrun_processes_only_the_first_reports(project, reported, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["probe"]) == 0
    assert reports.read(reported, "probe") is None
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["probe"]) == 0
    assert reports.read(reported, "probe").status == "done"
