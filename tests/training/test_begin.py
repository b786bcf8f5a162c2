"""Which state a training begins from, and what is said when there is none to go on from."""

import logging
import multiprocessing
import os
import re
import shutil
import subprocess
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from projects import train_flags, write_params

from vla import cli
from vla.errors import CheckpointError
from vla.tracking.sender import FILE_NAME, Sent
from vla.training import begin, distributed, train
from vla.training.state_directory import RESUME_OTHER_CODE, Identity, StateDirectory


def an_identity(*, steps=1800, data="d" * 64, code="c") -> Identity:
    return Identity(params={"seed": 0, "train": {"steps": steps, "ema": 0.9}}, inputs={"dataset": data}, code=code)


def interrupted(root, identity, *, step=200) -> StateDirectory:
    """The state of a training that has a checkpoint."""
    state = begin.find_state(root, identity)
    (state.checkpoints / f"{step:08d}").mkdir(parents=True)
    return state


def test_without_words_a_training_goes_on_where_a_state_exists_and_starts_where_none_does(tmp_path):
    first = begin.find_state(tmp_path, an_identity())
    assert first.is_of(an_identity())
    assert begin.find_state(tmp_path, an_identity()) == first


def test_resume_goes_on_from_a_checkpoint_and_from_a_finished_training(tmp_path):
    state = interrupted(tmp_path, an_identity())
    assert begin.find_state(tmp_path, an_identity(), resume=True) == state
    assert begin.find_state(tmp_path, an_identity(), resume=state.path) == state
    shutil.rmtree(state.checkpoints)
    state.done.write_text("{}")
    assert begin.find_state(tmp_path, an_identity(), resume=True) == state


def test_resume_without_a_checkpoint_names_the_newest_training_of_other_parameters(tmp_path):
    interrupted(tmp_path, an_identity(steps=900, data="e" * 64), step=100)
    newest = interrupted(tmp_path, an_identity(steps=2000), step=300)
    with pytest.raises(
        CheckpointError,
        match=re.escape(f"{newest.path} (step 300), differs in train.steps: 1800 here, 2000 there."),
    ):
        begin.find_state(tmp_path, an_identity(), resume=True)
    assert not (tmp_path / an_identity().fingerprint).exists()


def test_resume_of_a_training_that_was_killed_before_its_first_checkpoint_is_refused(tmp_path):
    begin.find_state(tmp_path, an_identity())
    with pytest.raises(CheckpointError, match="expected a checkpoint to go on from, found none"):
        begin.find_state(tmp_path, an_identity(), resume=True)


def test_resume_where_nothing_was_ever_trained_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="There is none of other parameters either"):
        begin.find_state(tmp_path / "state", an_identity(), resume=True)


def test_a_damaged_description_of_another_training_is_passed_over(tmp_path):
    interrupted(tmp_path, an_identity(steps=2000))
    (interrupted(tmp_path, an_identity(steps=3000)).path / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="1800 here, 2000 there"):
        begin.find_state(tmp_path, an_identity(), resume=True)


def test_resume_of_a_training_of_other_code_names_the_variable_that_allows_it(tmp_path, monkeypatch):
    old = interrupted(tmp_path, an_identity(code="old"))
    for resume in (True, old.path):
        with pytest.raises(CheckpointError, match=f"{old.path}.* in code.*{RESUME_OTHER_CODE}=1"):
            begin.find_state(tmp_path, an_identity(), resume=resume)
    monkeypatch.setenv(RESUME_OTHER_CODE, "1")
    assert begin.find_state(tmp_path, an_identity(), resume=True) == old
    assert begin.find_state(tmp_path, an_identity(), resume=old.path) == old


def test_the_state_of_another_training_is_refused_with_what_differs(tmp_path):
    other = interrupted(tmp_path, an_identity(steps=2000, data="e" * 64))
    interrupted(tmp_path, an_identity())
    with pytest.raises(CheckpointError) as caught:
        begin.find_state(tmp_path, an_identity(), resume=other.path)
    assert "differs in train.steps: 1800 here, 2000 there; dataset: dddddddddddd here, eeeeeeeeeeee there." in str(
        caught.value
    )


def test_a_folder_that_is_no_state_directory_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="expected a training's state directory, found none"):
        begin.find_state(tmp_path / "state", an_identity(), resume=tmp_path)


def test_a_copy_of_the_state_elsewhere_is_not_trained_in(tmp_path):
    state = interrupted(tmp_path / "state", an_identity())
    shutil.copytree(state.path, tmp_path / "copy")
    with pytest.raises(CheckpointError, match=re.escape(f"expected this training's state in {state.path}, found it")):
        begin.find_state(tmp_path / "state", an_identity(), resume=tmp_path / "copy")


def test_parameters_that_only_one_training_has_are_named(tmp_path):
    there = Identity(params={"seed": 0, "policy": {"name": "a"}}, inputs={}, code="c")
    state = begin.find_state(tmp_path, there)
    found = begin.differences(Identity(params={"seed": 1, "data": None}, inputs={}, code="c"), state)
    assert found == "seed: 1 here, 0 there; data: null here, none there; policy.name: none here, a there"


def test_of_many_differences_some_are_named_and_the_others_counted(tmp_path):
    names = [f"p{number}" for number in range(begin.NAMED + 3)]
    state = begin.find_state(tmp_path, Identity(params=dict.fromkeys(names, 0), inputs={}, code="c"))
    found = begin.differences(Identity(params=dict.fromkeys(names, 1), inputs={}, code="c"), state)
    assert found.endswith(f"p{begin.NAMED - 1}: 1 here, 0 there; 3 more")


def test_overwrite_removes_this_training_s_state_alone(tmp_path, caplog):
    own, other = (interrupted(tmp_path, an_identity(steps=steps)) for steps in (1800, 2000))
    with caplog.at_level(logging.INFO):
        begin.overwrite(tmp_path, an_identity())
    assert list(tmp_path.iterdir()) == [other.path]
    assert "stood at step 200" in caplog.text
    begin.overwrite(tmp_path, an_identity())  # nothing to remove is fine
    assert begin.find_state(tmp_path, an_identity()) == own


def test_overwrite_of_a_training_in_progress_says_who_holds_it(tmp_path):
    state = interrupted(tmp_path, an_identity())
    with state.hold("driver"), pytest.raises(CheckpointError, match=r"found one held by process \d+ on "):
        begin.overwrite(tmp_path, an_identity())
    assert state.checkpoints.is_dir()


def test_a_silent_server_does_not_keep_a_training_from_being_overwritten(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    state = interrupted(tmp_path, an_identity())
    Sent("http://127.0.0.1:1", "toys", run_id="1").write(state.path / FILE_NAME)
    begin.overwrite(tmp_path, an_identity())
    assert not state.path.exists()
    assert "http://127.0.0.1:1 does not answer" in caplog.text


def test_resume_and_overwrite_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--resume", "--overwrite"])
    assert end.value.code == 2
    assert "--overwrite: not allowed with argument --resume" in capsys.readouterr().err


def test_the_command_resumes_overwrites_and_insists(project, monkeypatch, capsys, caplog):
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    write_params(project, {"train.steps": 4})
    command = ["train", *train_flags(project)]
    assert cli.main([*command, "--resume"]) == 2
    assert (
        "There is none of other parameters either. To start from nothing, leave --resume out."
        in capsys.readouterr().err
    )
    assert not (project / ".vla" / "state").exists()

    assert cli.main(command) == 0
    [state] = StateDirectory.all(project / ".vla" / "state")
    state.done.unlink()
    with caplog.at_level(logging.INFO):
        assert cli.main([*command, "--resume", str(state.path)]) == 0
    assert "resuming at step 4 of 4" in caplog.text

    state.done.unlink()
    for metadata in state.checkpoints.glob("*/metadata.json"):
        metadata.write_text("{}")
    assert cli.main([*command, "--resume"]) == 2
    assert "found damaged ones only, which are set aside. To start from nothing" in capsys.readouterr().err
    assert [item.suffix for item in state.checkpoints.iterdir()] == [".damaged", ".damaged"]

    # The first of the period from step 2 on stays beside the newest: another retention is no other training.
    retention = {"execution.checkpoint_every": 1, "execution.keep_checkpoints": 1, "execution.keep_every": 2}
    write_params(project, {"train.steps": 4, **retention})
    assert cli.main([*command, "--overwrite"]) == 0
    assert {item.name for item in state.checkpoints.iterdir()} == {"00000002", "00000004"}
    write_params(project, {"train.steps": 5})
    assert cli.main([*command, "--resume", str(state.path)]) == 2
    assert "train.steps: 5 here, 4 there" in capsys.readouterr().err


class SlowIdentity(Identity):
    """Of a rank that takes its time, so that the other one is ahead."""

    @property
    def work(self) -> str:
        time.sleep(0.2)
        return super().work


def a_rank(rank: int, folder: str, modes) -> None:
    """One of two ranks that look for the state; only files of the second are its own alone. Says what it then reads."""
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=limit)
    os.chdir(folder)
    os.umask(0o077 if rank else 0o022)
    identity, kind = an_identity(), (Identity if rank else SlowIdentity)
    identity = kind(identity.params, identity.inputs, identity.code)
    context = distributed.joined(torch.device("cpu"))
    found = train._state_directory(identity, context, resume=False, overwrite=False)
    modes.put((found.path / "state.json").stat().st_mode & 0o777)
    dist.destroy_process_group()


def test_of_several_workers_the_writer_alone_describes_the_state_and_the_others_wait_for_it(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    fork = multiprocessing.get_context("fork")
    modes = fork.Queue()
    ranks = [fork.Process(target=a_rank, args=(rank, str(tmp_path), modes)) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    assert [modes.get(timeout=60) for _ in ranks] == [0o644, 0o644]
    for rank in ranks:
        rank.join()
