"""What `vla doctor` asks of the machine: packages, devices, disks, programs, shared memory, ports."""

import fcntl
import os
import platform
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from packaging.requirements import Requirement
from packaging.version import Version

from vla import workspace
from vla.errors import LaunchError
from vla.training import launch_torchrun

FLOOR = {"mlflow": "3.11", "prefect": "3.6.19", "ray": "2.54", "torch": "2.10"}
"""Package -> lowest version without a known hole that matters here."""
FREE_BYTES = 5_000_000_000
SHARED_BYTES = 500_000_000
"""Below this Ray's object store and NCCL's buffers between GPUs do not fit; containers begin with 64 MB."""
COPIES = 4
"""A checkpoint has the weights, two moments of each and their average."""
CLOCK_S = 2.0
NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "fuse", "9p", "virtiofs")
"""Beginnings of the names of file systems that are somewhere else."""


class Check(NamedTuple):
    """One line of the report."""

    good: bool
    what: str
    found: str


def good(what: str, found: str) -> Check:
    return Check(good=True, what=what, found=found)


def bad(what: str, found: str) -> Check:
    """`found` also says what to do."""
    return Check(good=False, what=what, found=found)


def versions() -> Iterator[Check]:
    """Against the security floor, and against what the project was tested with."""
    yield good("python", platform.python_version())
    for package, floor in FLOOR.items():
        found = _version(package)
        if found is None:
            yield bad(package, f"not installed; {floor} or newer is needed. Run 'make setup'")
            continue
        if Version(found) >= Version(floor):
            yield good(package, found)
        else:
            yield bad(package, f"{found}; {floor} or newer is needed, as older ones have holes. Run 'make setup'")
    needed = [Requirement(text) for text in metadata.requires("vlaflow") or []]
    yield bounds([item for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})])


def bounds(needed: list[Requirement]) -> Check:
    """Whether what is installed lies within the project's bounds; Prefect's server breaks with most fastapi."""
    found = {item.name: _version(item.name) for item in needed}
    wrong = [
        f"{item.name} {found[item.name] or 'is missing'} (needs {item.specifier or 'any version'})"
        for item in needed
        if found[item.name] is None or not item.specifier.contains(str(found[item.name]), prereleases=True)
    ]
    if wrong:
        return bad("packages", f"{', '.join(wrong)}. Run 'make setup'")
    return good("packages", f"{len(needed)} within the project's bounds")


def devices() -> Iterator[Check]:
    """Processors and GPUs as torch sees them, by the numbers that CUDA_VISIBLE_DEVICES gives them."""
    memory = psutil.virtual_memory()
    yield good("cpu", f"{os.cpu_count()} cores, {_size(memory.available)} of {_size(memory.total)} memory free")
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = "" if visible is None else f", CUDA_VISIBLE_DEVICES={visible}"
    if not count:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        yield good("gpu", f"none{seen}; torch was built with {built}")
        return
    yield good("gpu", f"{count}{seen}; CUDA {torch.version.cuda}, driver {_driver()}")
    for index in range(count):
        found = torch.cuda.get_device_properties(index)
        yield good(f"gpu {index}", f"{found.name}, {_size(found.total_memory)}")


def disks(bundle: Path | None, *, kept: int) -> Iterator[Check]:
    """Room for checkpoints (by the size of the last training's weights), for DVC's cache and for temporary files."""
    weights = 0 if bundle is None else sum(file.stat().st_size for file in bundle.glob("*.safetensors"))
    checkpoints = COPIES * weights * (kept + 1)
    store = workspace.local_store()
    why = f"{kept + 1} checkpoints take {_size(checkpoints)}" if weights else "no training yet to estimate by"
    yield _room("disk: state", store, max(FREE_BYTES, checkpoints), why)
    yield _room("disk: dvc", workspace.main_checkout() / ".dvc" / "cache", FREE_BYTES, "the cache of all outputs")
    yield _room("disk: tmp", Path(tempfile.gettempdir()), SHARED_BYTES, "Ray's sockets and logs; TMPDIR names another")


def _room(what: str, folder: Path, needed: int, why: str) -> Check:
    place = next(item for item in (folder, *folder.absolute().parents) if item.exists())
    free = shutil.disk_usage(place).free
    if free >= needed:
        return good(what, f"{_size(free)} free, {why}")
    return bad(what, f"{_size(free)} free; {_size(needed)} are needed ({why}). Try 'vla clean', 'dvc gc -w'")


def shared_memory(folder: Path = Path("/dev/shm")) -> Check:  # noqa: S108  # that is what it is called
    """Where Ray, NCCL and loaders exchange data; machines without one use files."""
    if not folder.is_dir():
        return good("shared memory", "none here, files are used")
    usage = shutil.disk_usage(folder)
    found = f"{_size(usage.free)} of {_size(usage.total)} free"
    if usage.free >= SHARED_BYTES:
        return good("shared memory", found)
    return bad("shared memory", f"{found}; give the container more, as by --shm-size=8g")


def file_system(folder: Path) -> Check:
    """Whether locks hold, renames replace and the clock is ours, where training keeps its state."""
    place = next(item for item in (folder, *folder.absolute().parents) if item.exists())
    kind = file_system_of(place)
    named = f"{kind}{' (a network disk)' if kind.startswith(NETWORK) else ''}"
    try:
        with tempfile.TemporaryDirectory(prefix=".vla-doctor-", dir=place) as scratch:
            first, second = Path(scratch, "first"), Path(scratch, "second")
            first.write_text("1")
            second.write_text("2")
            skew = abs(second.stat().st_mtime - time.time())
            locked, replaced = _locks_hold(first), second.replace(first).read_text() == "2"
    except OSError as error:
        return bad("file system", f"{named}: {error.strerror} in {place}. Choose another place")
    if not locked or not replaced:
        missing = "file locks (flock)" if not locked else "renames over a file"
        return bad("file system", f"{named} has no {missing}: two trainings could meet. Use another disk")
    if skew > CLOCK_S:
        return bad("file system", f"{named}: its clock is {skew:.0f} s off ours. Set both by NTP")
    return good("file system", f"{named}: locks hold, renames replace, its clock is ours")


def _locks_hold(file: Path) -> bool:
    """Whether a second opening of the file is refused a lock that the first one has."""
    with file.open("a") as mine, file.open("a") as other:
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def file_system_of(place: Path) -> str:
    """Kind of the file system that a folder lies on, such as ext4."""
    mounted = {Path(item.mountpoint): item.fstype for item in psutil.disk_partitions(all=True)}
    return next((mounted[item] for item in (place.resolve(), *place.resolve().parents) if item in mounted), "unknown")


def ports(environment: Mapping[str, str]) -> Check:
    """Where workers meet: a free port, or the user's."""
    try:
        words = launch_torchrun.meeting_place(environment)
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            free = probe.getsockname()[1]
    except LaunchError as error:
        return bad("ports", str(error))
    except OSError as error:
        return bad("ports", f"none is free on localhost: {error.strerror}. End programs that hold many")
    given = " ".join(word for word in words if word != "--standalone")
    return good("ports", f"{given or f'free ones are found, such as {free}'}")


def programs() -> Iterator[Check]:
    for program in ("git", "dvc"):
        found = shutil.which(program)
        if found is None:
            yield bad(program, "not on PATH. Run 'source .venv/bin/activate', or install it")
        else:
            yield good(program, found)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str:
    """Version of the kernel's driver, where it says."""
    file = Path("/sys/module/nvidia/version")
    return file.read_text().strip() if file.is_file() else "unknown"


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"
