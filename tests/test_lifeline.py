"""Real processes: a python parent (as DVC is), a shell or none between, and a child that holds a lifeline."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vla import lifeline

CHILD = """
import os, signal, subprocess, sys, time
from vla import lifeline
folder, grace, handles = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "handles"
def note(name, text=""):
    with open(os.path.join(folder, name + ".part"), "w") as stream:
        stream.write(text)
    os.rename(os.path.join(folder, name + ".part"), os.path.join(folder, name))
if handles:
    signal.signal(signal.SIGTERM, lambda *_: note("got_sigterm"))
lifeline.start(grace=grace, poll=0.05)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
note("ready", f"{os.getpid()} {worker.pid}")
for _ in range(1200):
    time.sleep(0.05)
"""
WORKER = """
import sys, time
from vla import lifeline
lifeline.watch_process(int(sys.argv[1]), float(sys.argv[2]), poll=0.05)
print("watching", flush=True)
time.sleep(60)
"""
PARENT = "import subprocess, sys; subprocess.run(sys.argv[1:])"


def command(shell: str | None, folder: Path, grace: float, handles: str) -> list[str]:
    child = [sys.executable, "-c", CHILD, str(folder), str(grace), handles]
    if shell is None:
        return child
    script = folder / "child.py"
    script.write_text(CHILD)
    return [shell, "-c", f"{sys.executable} {script} {folder} {grace} {handles}"]


def start_family(
    tmp_path: Path, shell: str | None, *, grace: float, handles: bool
) -> tuple[subprocess.Popen, int, int]:
    """The parent, and the ids of the child and of the child's own worker, once the child holds its lifeline."""
    words = command(shell, tmp_path, grace, "handles" if handles else "dies")
    environment = os.environ | {"DVC_STAGE": "train"}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *words], env=environment)
    ready = tmp_path / "ready"
    wait_until(ready.exists, seconds=20)
    child, worker = map(int, ready.read_text().split())
    return parent, child, worker


def wait_until(condition, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


SHELLS = [None, *(shell for shell in ("sh", "dash", "bash") if shutil.which(shell))]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_stage_whose_dvc_is_killed_ends_with_its_children(tmp_path, shell):
    parent, child, worker = start_family(tmp_path, shell, grace=30.0, handles=False)
    parent.kill()
    parent.wait()
    wait_until(lambda: is_gone(child) and is_gone(worker), seconds=5)


def test_a_stage_whose_dvc_died_before_it_looked_ends_at_once(tmp_path):
    late = f"sleep 0.5; {shlex.join([*command(None, tmp_path, 30.0, 'dies')])}; touch {tmp_path}/over"
    environment = os.environ | {"DVC_STAGE": "train"}
    # A session of its own, as a terminal or a service has: the init process that inherits the child is of another one.
    parent = subprocess.Popen([sys.executable, "-c", PARENT, "sh", "-c", late], env=environment, start_new_session=True)
    time.sleep(0.25)
    parent.kill()
    parent.wait()
    wait_until((tmp_path / "over").exists, seconds=20)
    assert not (tmp_path / "ready").exists()


def test_a_stage_that_handles_sigterm_has_the_grace_to_save_and_is_then_ended(tmp_path):
    parent, child, worker = start_family(tmp_path, "sh", grace=1.0, handles=True)
    parent.kill()
    # Not collected by a wait: a dead parent whose own parent sleeps is a zombie, and must count as gone.
    wait_until((tmp_path / "got_sigterm").exists, seconds=5)
    assert not is_gone(child)
    wait_until(lambda: is_gone(child) and is_gone(worker), seconds=5)
    parent.wait()


def test_a_stage_that_a_person_started_outlives_its_shell(monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    before = psutil.Process().num_threads()
    lifeline.start()
    assert psutil.Process().num_threads() == before


def test_a_worker_ends_when_the_driver_that_it_watches_is_gone():
    driver = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    start_time = psutil.Process(driver.pid).create_time()
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(driver.pid), str(start_time)], stdout=subprocess.PIPE)
    assert worker.stdout.readline() == b"watching\n"
    driver.send_signal(signal.SIGKILL)
    assert worker.wait(timeout=5) == 1
    worker.stdout.close()
    driver.wait()


def test_a_worker_whose_driver_id_belongs_to_another_process_ends_at_once():
    pid, start_time = lifeline.identity()
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(pid), str(start_time - 60)])
    assert worker.wait(timeout=20) == 1


LEADER = """
import subprocess, sys, time
from vla import lifeline
server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(server.pid, flush=True)
lifeline.watch_process(int(sys.argv[1]), float(sys.argv[2]), poll=0.05, whole_group=True)
time.sleep(60)
"""
LISTENER = """
import sys, time
from pathlib import Path
from vla import lifeline
lifeline.watch_heartbeat(Path(sys.argv[1]), limit=0.5, poll=0.05)
print("listening", flush=True)
time.sleep(60)
"""


def test_the_leader_of_a_group_takes_its_servers_with_it():
    driver = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    start_time = psutil.Process(driver.pid).create_time()
    command = [sys.executable, "-c", LEADER, str(driver.pid), str(start_time)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as leader:
        server = psutil.Process(int(leader.stdout.readline()))
        driver.kill()
        assert leader.wait(timeout=5) == -signal.SIGKILL
        psutil.wait_procs([server], timeout=5)
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    driver.wait()


def test_a_worker_on_another_machine_ends_when_the_heartbeat_stops(tmp_path):
    heartbeat = tmp_path / "heartbeat"
    heartbeat.write_text("0")
    with subprocess.Popen([sys.executable, "-c", LISTENER, str(heartbeat)], stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline() == b"listening\n"
        for beat in range(10):
            heartbeat.write_text(str(beat + 1))
            time.sleep(0.1)
            assert worker.poll() is None
        assert worker.wait(timeout=5) == 1


def test_a_heartbeat_that_cannot_be_read_at_first_or_for_a_while_counts_as_unchanged(tmp_path):
    heartbeat = tmp_path / "heartbeat"
    with subprocess.Popen([sys.executable, "-c", LISTENER, str(heartbeat)], stdout=subprocess.PIPE) as worker:
        assert worker.stdout.readline() == b"listening\n"
        for beat in range(10):
            time.sleep(0.1)
            assert worker.poll() is None
            if beat % 2:
                heartbeat.unlink()
            else:
                heartbeat.write_text(str(beat + 1))
        assert worker.wait(timeout=5) == 1
