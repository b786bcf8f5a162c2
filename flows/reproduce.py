"""One `dvc` process per run of the pipeline, and following it from outside. Nothing else starts DVC.

DVC's output is for people; which stages ran and how they ended comes from the stage reports (`vla/reports.py`).
The process has its own process group, so a cancelled run ends as a whole, and watches this process, so a killed one
leaves nothing behind.
"""

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import psutil
from dvc.api import DVCFileSystem
from dvc.cli import main as dvc_main
from dvc.dvcfile import PROJECT_FILE
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

from vla import lifeline, reports
from vla.errors import ConfigError

PATIENCE = 7.0
"""Seconds between asking the process group to end, which may write a checkpoint first, and killing it."""
POLL = 0.1


def stages_in_order() -> list[str]:
    """Names of the stages of the `dvc.yaml` here, in the order in which `dvc repro` takes them."""
    try:
        with Repo() as repo:
            stages = collect_stages(repo, [PROJECT_FILE])
            return [stage.addressing for stage in plan_repro(get_active_graph(repo.index.graph), stages)]
    except DvcException as error:
        raise ConfigError(f"{PROJECT_FILE}: expected a pipeline that dvc can read, found: {error}") from None


def arguments(*, overrides: Sequence[str] = (), force: bool = False, experiment: str | None = None) -> list[str]:
    """Arguments for dvc: `repro` here, or, with overrides, an experiment in a temporary workspace."""
    forced = ["--force"] if force else []
    if not overrides:
        return ["repro", *forced]
    _require_tracked("vla")
    named = ["--name", experiment] if experiment else []
    return ["exp", "run", "--temp", *forced, *named, *(word for item in overrides for word in ("--set-param", item))]


def _require_tracked(folder: str) -> None:
    """An experiment's workspace is made from what git knows: refuse code that would silently be missing there."""
    command = ["git", "ls-files", "--others", "--exclude-standard", folder]
    untracked = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if untracked:
        raise ConfigError(
            f"{folder}/: expected only files that git tracks, because an experiment sees no others, found "
            f"{', '.join(untracked[:5])}. Run 'git add {' '.join(untracked[:5])}' first."
        )


class Reproduction:
    """A running dvc; as a context manager it is started on entry, and ended with its whole group on exit."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=200)

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="vla-reports-")
        self._reports = Path(self._folder.name)
        pid, start_time = lifeline.identity()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.reproduce", str(pid), str(start_time), *self._words],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, name="dvc output", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        end_group(self._process)
        self._reader.join(timeout=1.0)
        self._folder.cleanup()

    def until_reached(self, stages: Sequence[str]) -> Iterator[str]:
        """Output until one of `stages` has started or dvc is over; what that stage printed already is left to it."""
        return self._follow(lambda: self.has_reached(stages), drain=False)

    def until_ended(self, stage: str) -> Iterator[str]:
        """Output until `stage` has ended well or dvc is over, so that a traceback after a bad end is included."""
        return self._follow(lambda: (report := self.report(stage)) is None or report.status == "done")

    def until_over(self) -> Iterator[str]:
        """The rest of the output."""
        yield from self._follow(lambda: False)
        self._reader.join(timeout=5.0)
        yield from self._follow(lambda: True)

    def has_reached(self, stages: Sequence[str]) -> bool:
        """Whether one of `stages` has started."""
        return any(self.report(stage) for stage in stages)

    def report(self, stage: str) -> reports.StageReport | None:
        """How the stage goes or went; None when it has not started, or was restored from the cache."""
        return reports.read(self._reports, stage)

    @property
    def failure(self) -> str:
        """What dvc said when it failed; empty while it runs and when all went well."""
        if not self._process.poll():
            return ""
        errors = [line for line in self._last if line.startswith("ERROR")] or list(self._last)[-5:]
        return "\n".join(dict.fromkeys(errors)) or f"dvc ended with exit code {self._process.returncode}"

    def _environment(self) -> dict[str, str]:
        """The stages' commands begin with `python`, which must be this one; their lines come as they are written."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return os.environ | {reports.VARIABLE: str(self._reports), "PATH": path, "PYTHONUNBUFFERED": "1"}

    def _read(self) -> None:
        stream = self._process.stdout
        if stream is None:
            raise AssertionError("dvc is started with a pipe")
        with stream:
            for line in stream:
                # Progress bars rewrite their line; what it says last is kept.
                text = line.decode(errors="replace").rstrip().rpartition("\r")[2]
                if text:
                    self._last.append(text)
                    self._lines.put(text)

    def _follow(self, reached: Callable[[], bool], *, drain: bool = True) -> Iterator[str]:
        """Output until `reached()` or dvc is over; `drain` includes what was printed before that and not read yet."""
        while True:
            over = reached()
            if over and not drain:
                return
            over = over or self._process.poll() is not None
            try:
                line = self._lines.get(timeout=0.0 if over else POLL)
            except queue.Empty:
                if over:
                    return
                continue
            yield line


def end_group(process: subprocess.Popen[bytes], *, patience: float = PATIENCE) -> None:
    """End the process group that `process` leads: SIGTERM, at most `patience` seconds, then SIGKILL."""
    group = process.pid
    try:
        if _group_lives(process):
            os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + patience
        while _group_lives(process) and time.monotonic() < deadline:
            time.sleep(POLL)
    finally:
        # Also when this wait is interrupted a second time.
        if _group_lives(process):
            os.killpg(group, signal.SIGKILL)
        process.wait()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    """Whether the group has a process that is more than an entry nobody has collected yet."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return any(_is_live_member(other, process.pid) for other in psutil.process_iter())


def _is_live_member(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def metrics(revision: str | None = None) -> dict[str, dict[str, float]]:
    """Metrics file -> its top-level numbers, of the workspace or of an experiment."""
    key = revision or ""
    with Repo() as repo:
        shown = repo.metrics.show(revs=[revision] if revision else None)
    files = {path: item.get("data") for path, item in shown.get(key, {}).get("data", {}).items()}
    return {
        path: {name: value for name, value in values.items() if isinstance(value, int | float)}
        for path, values in files.items()
        if isinstance(values, dict)
    }


def pictures(revision: str | None = None) -> dict[str, bytes]:
    """Path -> contents of the PNG files among the outputs of the stages that have metrics."""
    with Repo() as repo:
        measured = [stage for stage in repo.index.stages if any(out.metric for out in stage.outs)]
        folders = [Path(out.fs_path).relative_to(repo.root_dir) for stage in measured for out in stage.outs]
    files = DVCFileSystem(".", rev=revision)
    found = sorted({path for folder in folders for path in files.glob(f"{folder}/*.png")})
    return {path: files.read_bytes(path) for path in found}


def main(words: Sequence[str]) -> int:
    """Run dvc with the arguments after (pid, start time), and end with the process that these identify."""
    lifeline.watch_process(int(words[0]), float(words[1]))
    code: int = dvc_main(list(words[2:]))
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
