"""`vla doctor`: whether this machine can run the pipeline. Exits with 2 when something would not work."""

import argparse
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.distributed
from packaging.version import Version

from vla import workspace
from vla.errors import UserError
from vla.tracking import store

FLOOR = {"mlflow": "3.11", "prefect": "3.6.19", "ray": "2.54", "torch": "2.10"}
"""Package -> lowest version without a known hole that matters here."""
FREE_BYTES = 5_000_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all-reduce", action=argparse.BooleanOptionalAction, default=True, help="try two processes")


def run(options: argparse.Namespace) -> str:
    """One line per check; raises UserError with all of them when one failed."""
    checks = [*_versions(), _devices(), _disk(), *_programs(), _tracking()]
    if options.all_reduce:
        checks.append(_all_reduce())
    lines = [f"{'ok ' if good else 'BAD'}  {what:<16}{found}" for good, what, found in checks]
    if not all(good for good, _, _ in checks):
        raise UserError("\n".join(["something here would not work:", *lines]))
    return "\n".join(lines)


Check = tuple[bool, str, str]
"""Whether it is good, what was looked at, what was found."""


def _versions() -> Iterator[Check]:
    yield True, "python", platform.python_version()
    for package, floor in FLOOR.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            yield False, package, f"not installed; {floor} or newer is needed. Run 'make setup'"
            continue
        good = Version(found) >= Version(floor)
        yield good, package, found if good else f"{found}; {floor} or newer is needed, as older ones have known holes"


def _devices() -> Check:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return True, "devices", f"{os.cpu_count()} CPU cores, {len(gpus)} GPUs {', '.join(gpus)}".rstrip()


def _disk() -> Check:
    free = shutil.disk_usage(workspace.main_checkout()).free
    good = free >= FREE_BYTES
    return good, "disk", f"{free:,} bytes free" + ("" if good else f"; {FREE_BYTES:,} are needed. Try 'vla clean'")


def _programs() -> Iterator[Check]:
    for program in ("git", "dvc"):
        found = shutil.which(program)
        yield found is not None, program, found or "not on PATH. Run 'source .venv/bin/activate', or install it"


def _tracking() -> Check:
    uri = store.tracking_uri()
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite") and not file.exists():
        return True, "tracking", f"{uri}, made by the first training"
    try:
        with store.answering(uri, then="Start it; training goes on without it."):
            store.connect(uri).search_experiments(max_results=1)
    except UserError as error:
        return False, "tracking", str(error)
    return True, "tracking", f"{store.public_uri(uri)} answers"


def _all_reduce() -> Check:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
                list(processes.map(_sum_of_ranks, [0, 1], [f"{folder}/store"] * 2))
        except (RuntimeError, ValueError) as error:
            return False, "all-reduce", f"two gloo processes did not agree: {store.first_line(error)}"
    return True, "all-reduce", "two gloo processes agree"


def _sum_of_ranks(rank: int, file: str) -> None:
    limit = timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2, timeout=limit)
    value = torch.tensor([rank + 1.0])
    torch.distributed.all_reduce(value)
    if value.item() != 3.0:
        raise ValueError(f"expected 1 + 2 = 3, found {value.item()}")
    torch.distributed.destroy_process_group()
