"""A kill at any file operation: from the n-th one on nothing that the interrupted code does reaches the disk.

The functions of the operating system's interface are wrapped, so whatever the library above them does is counted. An
fsync is counted and not made, which is what takes the time; what it is for is the trace's to show. And a disk that is
full, as anybody may have it.
"""

import io
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vla.models import bundle

CALLS = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "chmod")


class Killed(BaseException):
    """No error that code could handle."""


@dataclass
class Trace:
    """The file operations of a block, in order."""

    limit: float = float("inf")
    """The first operation that is not made; none after it is either."""
    events: list[tuple[str, ...]] = field(default_factory=list)
    """Name of the operation, then the paths that it is about."""

    def step(self, name: str, *places: Any) -> None:
        if len(self.events) + 1 >= self.limit:
            raise Killed
        self.events.append((name, *(str(place) for place in places)))


@contextmanager
def traced(trace: Trace) -> Iterator[Trace]:
    """Count the file operations of the block into `trace` and kill it at its limit."""
    real = {name: getattr(os, name) for name in CALLS}
    real_open, real_save = io.open, bundle.save_file
    opened: dict[int, str] = {}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            place = arguments[0]
            trace.step(name, opened.get(place, "") if isinstance(place, int) else place, *_target(name, arguments))
            if name == "fsync":
                return None
            result = real[name](*arguments, **options)
            if name == "open":
                opened[result] = os.fspath(place)
            return result

        return call

    def open_file(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "r" not in mode:
            trace.step("create", file)
        return real_open(file, mode, *arguments, **options)

    def save_file(tensors: Any, path: Path) -> None:
        """Safetensors writes without Python's functions; a kill in its middle leaves half of the file."""
        trace.step("create", path)
        real_save(tensors, path)
        try:
            trace.step("written", path)
        except Killed:
            with real_open(path, "r+b") as stream:
                stream.truncate(Path(path).stat().st_size // 2)
            raise

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, wrapped(name))
        patch.setattr(io, "open", open_file)
        patch.setattr(bundle, "save_file", save_file)
        yield trace


def _target(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return arguments[1:2] if name in ("rename", "replace") else ()


def killed(act: Callable[[], object], *, at: int) -> bool:
    """Call `act`, killed at its operation number `at`; returns whether it came that far."""
    try:
        with traced(Trace(at)):
            act()
    except Killed:
        return True
    return False


@contextmanager
def files_limited(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
