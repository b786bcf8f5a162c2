"""`vla clean`: remove what the pipeline keeps beside its outputs and no process uses.

These are states of finished trainings, decoded frames, which the next training decodes again, unfinished files of
downloads, which the next download fetches again, and workspaces of experiments whose process died. Outputs, complete
downloads, DVC's cache and MLflow's records are not touched. An interrupted training is
work that can still be continued: it is named and kept unless --interrupted says otherwise; its run, which would look
alive for ever, is ended in MLflow then.
"""

import argparse
import fcntl
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from vla import workspace
from vla.data import fetch_url
from vla.registration import stale
from vla.tracking import store
from vla.training import checkpoint
from vla.training.state_directory import StateDirectory

SETTING_UP = 120.0
"""Seconds in which DVC fills a new workspace from outside."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, remove nothing")
    parser.add_argument("--interrupted", action="store_true", help="also remove trainings that could be continued")


def run(options: argparse.Namespace) -> str:
    """Remove, and say what and how many bytes."""
    finished, interrupted = _idle(finished=True), _idle(finished=False)
    lines = _end_runs() if options.interrupted and interrupted and not options.dry_run else []
    total = 0
    found: list[tuple[Path, str, Callable[[], object]]] = [
        *((state.path, "finished training", state.remove) for state in finished),
        *((state.path, _progress(state), state.remove) for state in interrupted if options.interrupted),
        *((path, what, partial(shutil.rmtree, path)) for path, what in [*_frames(), *_dead_workspaces()]),
        *((path, "half-removed training", partial(_remove, path)) for path in _half_removed()),
        *((path, "unfinished download", partial(_remove, path)) for path in _unfinished_downloads()),
    ]
    for path, what, remove in found:
        size = _size(path)
        total += size
        lines.append(f"{size:>16,} bytes  {what}  {path}")
        if not options.dry_run:
            remove()
    if not options.interrupted:
        lines += [
            f"{'kept':>22}  {_progress(state)}  {state.path} (remove with --interrupted)" for state in interrupted
        ]
    verb = "would be removed" if options.dry_run else "removed"
    return "\n".join([*lines, f"{total:>16,} bytes  {verb}"])


def _progress(state: StateDirectory) -> str:
    return f"training interrupted at step {checkpoint.last_step(state.checkpoints)}"


def _idle(*, finished: bool) -> list[StateDirectory]:
    """The training states that no process holds."""
    states = StateDirectory.all(workspace.local_store() / "state")
    return [state for state in states if state.done.is_file() == finished and state.is_free()]


def _half_removed() -> list[Path]:
    """States whose removal was interrupted."""
    return sorted((workspace.local_store() / "state").glob(".*.removed"))


def _end_runs() -> list[str]:
    """End the MLflow runs of interrupted trainings; a silent server is said and stops nothing."""
    uri = store.tracking_uri()
    try:
        closed = stale.close_stale_runs(store.connect(uri), uri)
    except store.SERVER_ERRORS as error:
        reason = store.first_line(error)
        return [f"{store.public_uri(uri)} does not answer ({reason}): runs of removed trainings stay RUNNING there"]
    return [f"ended MLflow run {run_id}" for run_id in closed]


def _frames() -> list[tuple[Path, str]]:
    """The decoded frames, unless a training that may map them is running or they are being decoded."""
    folder = workspace.local_store() / "frames"
    running = [state for state in StateDirectory.all(workspace.local_store() / "state") if not state.is_free()]
    return [(folder, "decoded frames")] if folder.is_dir() and not running and _is_free(folder / "lock") else []


def _unfinished_downloads() -> list[Path]:
    """What downloads left that no process goes on with."""
    idle = [lock.parent for lock in sorted(fetch_url.places().glob(f"*/{fetch_url.LOCK}")) if _is_free(lock)]
    return [path for place in idle for path in fetch_url.unfinished(place)]


def _dead_workspaces() -> list[tuple[Path, str]]:
    """Folders of `dvc exp run --temp` and of DVC's queue that no process works in, nor is about to."""
    folder = workspace.main_checkout() / ".dvc/tmp/exps"
    old = time.time() - SETTING_UP
    candidates = [path for path in [*folder.glob("tmp*"), *folder.glob("*/tmp*")] if path.stat().st_mtime < old]
    if not candidates:
        return []
    used = _working_folders()
    return [(path, "dead experiment") for path in candidates if not any(place.is_relative_to(path) for place in used)]


def _working_folders() -> set[Path]:
    folders = set()
    for process in psutil.process_iter():
        try:
            folders.add(Path(process.cwd()))
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess, OSError):
            continue
    return folders


def _is_free(lock: Path) -> bool:
    if not lock.exists():
        return True
    with lock.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _size(path: Path) -> int:
    return sum(item.lstat().st_size for item in [path, *path.rglob("*")] if not item.is_dir())
