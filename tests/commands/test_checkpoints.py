import json

import pytest
from foreign_checkpoints import lerobot_folder, openpi_folder

from vla import cli
from vla.models import bundle

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def source(tmp_path):
    return openpi_folder(tmp_path / "pi05_lab", "pi05")


def import_checkpoint(source, out, *flags):
    return cli.main(["import-checkpoint", str(source), "--out", str(out), "--fps", "10", "--vision-heads", "4", *flags])


def test_a_checkpoint_comes_in_and_goes_out_by_two_commands(source, tmp_path, capsys):
    flags = ["--view", "base=observation.images.front", "--view", "wrist=observation.images.wrist"]
    flags += ["--state-names", "x,y,z", "--action-names", "dx,grip", "--delta-actions", "0:1", "--max-tokens", "40"]
    assert import_checkpoint(source, tmp_path / "policy", *flags) == 0
    shown = capsys.readouterr().out
    assert "266,744 parameters in 111 tensors, all matched" in shown
    assert "state             3 dimensions (quantile, formula openpi)" in shown
    loaded = bundle.load(tmp_path / "policy")
    assert loaded.config.data_name == "pi05_lab"
    assert loaded.config.columns.views == {"base": "observation.images.front", "wrist": "observation.images.wrist"}
    assert loaded.passport["imported"]["source"] == "pi05_lab"
    assert cli.main(["export", str(loaded.path), "--layout", "lerobot", "--out", str(tmp_path / "lerobot")]) == 0
    assert "113 tensors" in capsys.readouterr().out
    config = json.loads((tmp_path / "lerobot/config.json").read_text())
    assert list(config["input_features"])[:2] == ["observation.images.front", "observation.images.wrist"]
    assert config["relative_exclude_joints"] == ["grip"]


def test_a_repository_is_found_among_the_assets_and_named_in_the_passport(tmp_path, monkeypatch):
    lerobot_folder(tmp_path / f"assets/lab--pi05/{COMMIT}", "pi05")
    monkeypatch.setenv("VLA_ASSETS", str(tmp_path / "assets"))
    assert import_checkpoint("lab/pi05", tmp_path / "policy", "--revision", COMMIT, "--data-name", "lab") == 0
    imported = bundle.load(tmp_path / "policy").passport["imported"]
    assert (imported["source"], imported["revision"], imported["layout"]) == ("lab/pi05", COMMIT, "lerobot")


def test_neither_command_replaces_what_is_there(source, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    assert import_checkpoint(source, tmp_path / "mine") == 2
    assert cli.main(["export", str(source), "--layout", "openpi", "--out", str(tmp_path / "mine")]) == 2
    assert capsys.readouterr().err.count("expected a folder that is not there yet") == 2


def test_a_place_that_is_none_is_refused_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert import_checkpoint(tmp_path / "empty", tmp_path / "file/policy") == 2
    assert "expected a place to read or write, found 'Not a directory'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--view", "base"], "--view: expected NAME=COLUMN, each name and each column once, found 'base'"),
        (["--view", "a=b", "--view", "a=c"], "each name and each column once, found 'a=c'"),
        (["--view", "a=b", "--view", "c=b"], "each name and each column once, found 'c=b'"),
        (["--revision", "main"], "expected a source OWNER/NAME beside a revision"),
        (["--data-name", "a b"], "--data-name: expected ASCII letters, digits"),
        (["--delta-actions", "0:3"], "expected actions among the dimensions 0 to 1, found [0, 3]"),
        (["--vision-heads", "5"], "vision: expected a width that its 5 heads divide, found 48"),
    ],
)
def test_flags_that_say_nothing_are_refused(source, tmp_path, capsys, flags, expected):
    assert import_checkpoint(source, tmp_path / "policy", *flags) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--max-tokens", "0"], "expected a whole number of at least 1, found 0"),
        (["--vision-heads", "many"], "expected a number, found many"),
        (["--delta-actions", "3"], "expected FIRST:END, such as 0:6 for the dimensions 0 to 5, found 3"),
        (["--delta-actions", "3:3"], "expected FIRST:END"),
        (["--fps", "0"], "expected a number above 0, found 0"),
        (["--fps", "nan"], "expected a number, found nan"),
    ],
)
def test_flags_that_are_no_numbers_are_errors_of_usage(source, tmp_path, capsys, flags, expected):
    with pytest.raises(SystemExit) as error:
        import_checkpoint(source, tmp_path / "policy", *flags)
    assert error.value.code == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "policy").exists()


def test_a_damaged_file_of_another_project_is_to_be_fetched_again(source, tmp_path, capsys):
    (source / "config.json").write_text("[1]")
    assert import_checkpoint(source, tmp_path / "policy") == 2
    assert "config.json: expected a JSON object, found list. Get it again." in capsys.readouterr().err
    (source / "config.json").write_text("{")
    assert import_checkpoint(source, tmp_path / "policy") == 2
    assert "(char 1). Get it again." in capsys.readouterr().err


def test_a_folder_that_is_not_there_may_be_a_repository(tmp_path, capsys):
    assert import_checkpoint("lab/pi05", tmp_path / "policy") == 2
    assert "give --revision with its commit" in capsys.readouterr().err
