import os
import subprocess
import sys
import threading

import pytest

from vla import artifacts
from vla.errors import CheckpointError
from vla.training.state_directory import RESUME_OTHER_CODE, Identity, StateDirectory


def an_identity(*, lr=1.0, data="d", code="c") -> Identity:
    return Identity(params={"train": {"lr": lr}}, inputs={"dataset": data}, code=code)


def begun(root, identity) -> StateDirectory:
    """The state directory of a training that has begun."""
    return StateDirectory.find(root, identity)[0].describe(identity)


def test_equal_work_has_one_directory_and_other_work_another(tmp_path):
    first = begun(tmp_path, an_identity())
    assert begun(tmp_path, an_identity()) == first
    for other in (an_identity(lr=2.0), an_identity(data="e"), an_identity(code="f")):
        assert StateDirectory.find(tmp_path, other)[0] != first


def test_looking_for_a_state_makes_none(tmp_path):
    StateDirectory.find(tmp_path / "state", an_identity())
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_other_code_is_reported_and_left_alone(tmp_path):
    old = begun(tmp_path, an_identity(code="old"))
    found, other = StateDirectory.find(tmp_path, an_identity(code="new"))
    assert found != old
    assert other == old


def test_a_state_of_other_code_is_continued_on_request(tmp_path, monkeypatch):
    old = begun(tmp_path, an_identity(code="old"))
    monkeypatch.setenv(RESUME_OTHER_CODE, "1")
    assert StateDirectory.find(tmp_path, an_identity(code="new"))[0] == old


HOLDER = """
import sys
from pathlib import Path
from vla.training.state_directory import StateDirectory
with StateDirectory(Path(sys.argv[1])).hold("driver"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
    """A state directory whose lock another process holds."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield StateDirectory(tmp_path), process
        process.kill()


def test_a_second_holder_is_told_who_holds_it(held):
    directory, process = held
    with (
        pytest.raises(CheckpointError, match=f"held by process {process.pid} on {os.uname().nodename}"),
        directory.hold("driver", wait_s=0.1),
    ):
        pass
    assert not directory.is_free()
    assert directory.holder() == f"process {process.pid} on {os.uname().nodename}"


def test_a_state_in_use_is_not_removed(held):
    directory, process = held
    assert not directory.remove()
    assert directory.path.exists()
    process.kill()
    process.wait(30)
    assert directory.remove()
    assert not directory.path.exists()


def test_the_lock_goes_with_a_killed_holder(held):
    directory, process = held
    process.kill()
    process.wait(30)
    with directory.hold("driver", wait_s=5):
        assert not directory.is_free()
    assert directory.is_free()


@pytest.mark.parametrize("made_again", [False, True])
def test_a_lock_that_was_waited_for_and_is_removed_meanwhile_is_none(held, made_again):
    directory, process = held

    def remove() -> None:
        artifacts.remove_directory(directory.path)
        if made_again:
            directory.path.mkdir()
            (directory.path / "driver.lock").touch()
        process.kill()

    remover = threading.Timer(0.3, remove)
    remover.start()
    with pytest.raises(CheckpointError, match="found that another process has removed it"), directory.hold("driver"):
        pass
    remover.join()


def test_finished_states_of_other_trainings_are_removed_and_unfinished_ones_stay(tmp_path):
    done, unfinished, own = (begun(tmp_path, an_identity(lr=lr)) for lr in (1.0, 2.0, 3.0))
    for state in (done, own):
        state.done.write_text("{}")
    own.remove_finished_others()
    assert [state.path.exists() for state in (done, unfinished, own)] == [False, True, True]
