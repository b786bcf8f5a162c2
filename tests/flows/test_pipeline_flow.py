"""The flow with a real DVC and a real Prefect server, as processes of their own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest
from dvc_projects import make_project, set_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Nothing of this machine's own Prefect or tracking server is touched."""
    foreign = ("PREFECT_", "MLFLOW_", "DVC_", "VLA_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect"))}


@pytest.fixture(scope="module")
def server(environment) -> str:
    """Address of a Prefect server's API."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        env=environment | quiet,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    api = f"http://127.0.0.1:{port}/api"
    wait_until(lambda: answers(f"{api}/health"), seconds=120)
    yield api
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    return make_project(tmp_path_factory.mktemp("template") / "project")


@pytest.fixture
def project(template, tmp_path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


def start(project: Path, environment: dict[str, str], *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "flows.pipeline", *words]
    return subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(project: Path, environment: dict[str, str], *words: str) -> tuple[int, str]:
    with start(project, environment, *words) as process:
        output, _ = process.communicate(timeout=120)
        return process.returncode, output


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def ask(api: str, what: str, **query: Any) -> Any:
    body = json.dumps(query).encode()
    request = urllib.request.Request(f"{api}/{what}/filter", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def last_flow_run(api: str) -> dict[str, Any]:
    return ask(api, "flow_runs", sort="START_TIME_DESC", limit=1)[0]


def task_states(api: str, flow_run: dict[str, Any]) -> dict[str, str]:
    """Task run name -> name of its state, once all of them are stored."""
    query = {"flow_runs": {"id": {"any_": [flow_run["id"]]}}}
    wait_until(lambda: all(run["end_time"] for run in ask(api, "task_runs", **query)), seconds=30)
    return {run["name"]: run["state"]["name"] for run in ask(api, "task_runs", **query)}


def wait_until(condition, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


def test_each_stage_is_a_task_that_ran_and_the_second_time_is_cached(project, environment, server):
    connected = environment | {"PREFECT_API_URL": server}
    code, output = run(project, connected)
    assert code == 0, output
    first = last_flow_run(server)
    assert (first["state"]["name"], first["state"]["message"]) == ("Completed", "3 of 3 stages ran")
    assert task_states(server, first) == {"first": "Ran", "middle": "Ran", "last": "Ran"}
    artifacts = ask(server, "artifacts", flow_runs={"id": {"any_": [first["id"]]}})
    assert {artifact["key"] for artifact in artifacts} == {"metrics", "report"}
    report = next(artifact["data"] for artifact in artifacts if artifact["key"] == "report")
    assert "http://127.0.0.1:5000/#/runs/run-1" in report
    assert "![plots/curve.png](data:image/png;base64," in report

    code, output = run(project, connected)
    assert code == 0, output
    assert task_states(server, last_flow_run(server)) == {"first": "Cached", "middle": "Cached", "last": "Cached"}


def test_a_failing_stage_fails_its_task_and_the_flow_with_its_message(project, environment, server):
    set_params(project, middle={"problem": "no such thing", "seconds": 0.5})
    code, output = run(project, environment | {"PREFECT_API_URL": server})
    assert code == 1
    assert "ValueError: no such thing" in output
    flow_run = last_flow_run(server)
    assert (flow_run["state"]["name"], flow_run["state"]["message"]) == ("Failed", "middle: no such thing")
    assert task_states(server, flow_run) == {"first": "Ran", "middle": "Failed"}


def test_a_preempted_stage_is_shown_as_such(project, environment, server):
    set_params(project, middle={"preempted": "stopped at step 5.", "seconds": 0.5})
    code, _ = run(project, environment | {"PREFECT_API_URL": server})
    assert code == 1
    state = last_flow_run(server)["state"]
    assert (state["type"], state["name"]) == ("CANCELLED", "Preempted")
    assert state["message"] == "middle: stopped at step 5. Run the pipeline again to go on."
    assert task_states(server, last_flow_run(server)) == {"first": "Ran", "middle": "Preempted"}


def test_what_dvc_refuses_fails_the_flow_with_dvcs_message(project, environment, server):
    (project / "dvc.yaml").write_text("stages: {first: {command: true}}")
    code, _ = run(project, environment | {"PREFECT_API_URL": server})
    assert code == 1
    assert "validation failed" in last_flow_run(server)["state"]["message"]


def test_overrides_run_an_experiment_with_the_name_of_the_flow_run(project, environment, server):
    connected = environment | {"PREFECT_API_URL": server}
    code, output = run(project, connected, "-S", "last.value=9")
    assert code == 0, output
    name = last_flow_run(server)["name"]
    known = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "list", "--name-only"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    assert known.stdout.split() == [name]
    assert not (project / "last.json").exists()


def test_a_terminated_flow_leaves_no_process_behind_within_seconds(project, environment, tmp_path):
    """Without a server of its own: Prefect's temporary one must go too."""
    started, saved = tmp_path / "started", tmp_path / "saved"
    set_params(project, first={"seconds": 60, "started": str(started), "saved": str(saved)})
    with start(project, environment) as process:
        wait_until(started.exists, seconds=120)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert saved.exists()
    _, left = psutil.wait_procs(family, timeout=5)
    assert left == []
