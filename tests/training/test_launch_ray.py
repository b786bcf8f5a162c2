"""What the launcher for Ray decides and says, without a Ray."""

import os
from unittest import mock

import pytest
from projects import params
from ray.exceptions import RayError
from ray.train import WorkerGroupError

from vla.errors import LaunchError
from vla.execution import ExecutionConfig

with mock.patch.dict(os.environ):  # it tells Ray things before importing it
    from vla.training import launch_ray


def execution(**changes: object) -> ExecutionConfig:
    values = params({f"execution.{name}": value for name, value in changes.items()})["execution"]
    return ExecutionConfig.parse(values, where="execution")


@pytest.mark.parametrize(
    ("device", "found", "use_gpu"),
    [
        ("auto", {"CPU": 2.0}, False),
        ("auto", {"CPU": 2.0, "GPU": 1.0}, False),
        ("auto", {"CPU": 2.0, "GPU": 2.0}, True),
        ("cpu", {"CPU": 2.0, "GPU": 2.0}, False),
        ("cuda", {"CPU": 2.0, "GPU": 2.0}, True),
    ],
)
def test_workers_get_gpus_where_there_is_one_for_each(device, found, use_gpu):
    assert launch_ray.takes_gpus(execution(device=device, workers=2), found) is use_gpu


@pytest.mark.parametrize(
    ("device", "found", "message"),
    [
        ("cuda", {"CPU": 8.0}, "expected at most 0, the number of GPUs that Ray has, found 2"),
        ("cuda", {"CPU": 8.0, "GPU": 1.0}, "expected at most 1, the number of GPUs that Ray has, found 2"),
        ("auto", {"CPU": 1.0}, "expected at most 1, the number of CPUs that Ray has, found 2"),
    ],
)
def test_what_ray_would_wait_for_without_end_is_refused_with_both_numbers(device, found, message):
    with pytest.raises(LaunchError, match=f"execution.workers: {message}. Lower it, or set RAY_ADDRESS"):
        launch_ray.takes_gpus(execution(device=device, workers=2), found)


def test_other_work_in_a_cluster_is_said(capsys):
    launch_ray._say_what_is_busy(execution(workers=2), {"CPU": 2.0}, use_gpu=False)
    assert capsys.readouterr().err == ""
    launch_ray._say_what_is_busy(execution(workers=2), {"CPU": 1.0}, use_gpu=False)
    assert capsys.readouterr().err == "ray: waiting until 2 CPUs are free, of which others leave 1\n"


def test_the_last_failure_is_told_of_those_who_caused_it(tmp_path, capsys):
    lost = "Traceback ...\nPeerLostError: rank 0: ends as another worker has ended"
    error = WorkerGroupError("all", {0: RuntimeError(lost), 1: ValueError("a defect\nat length")})
    message = launch_ray.explained(error, 2, logs="state/logs")
    assert message.startswith(
        "ray: expected workers that finish, found that they failed 3 times (execution.max_failures 2), the last time "
        "rank 1: ValueError: a defect. The logs of the workers are in state/logs."
    )
    for rank in range(2):
        (tmp_path / f"rank{rank}.log").write_text(f"words of {rank}\n")
    launch_ray._show_logs(error, tmp_path)
    assert capsys.readouterr().err == "[rank1] words of 1\n"


def test_a_lost_controller_is_one_message():
    message = launch_ray.explained(RayError("The actor died unexpectedly.\nclass_name: ..."), 2, logs="state/logs")
    assert message == (
        "ray: expected a training that finishes, found that Ray lost it: RayError: The actor died unexpectedly. "
        "'dvc repro' continues from the last checkpoint."
    )
