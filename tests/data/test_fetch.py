"""Fetching in general: what happens when something goes wrong in one of several transfers."""

import threading
import time
from pathlib import Path

import pytest

from vla.data.fetch import check_space, in_parallel, stat_files
from vla.data.transfer import Tell
from vla.errors import DataError


def test_every_name_is_called_once() -> None:
    called: list[str] = []
    in_parallel(lambda name, tell: called.append(name), [str(number) for number in range(50)], total=None)
    assert sorted(called, key=int) == [str(number) for number in range(50)]


def test_the_first_error_stops_what_is_under_way_and_what_waits() -> None:
    begun, told = threading.Event(), []

    def call(name: str, tell: Tell) -> None:
        if name == "bad":
            begun.wait()
            raise DataError("bad: expected a file, found none.")
        begun.set()
        for _ in range(1000):
            time.sleep(0.01)
            tell(1)
            told.append(name)

    before = time.monotonic()
    with pytest.raises(DataError, match="bad: expected a file"):
        in_parallel(call, ["endless", "bad", *map(str, range(100))], total=None)
    assert time.monotonic() - before < 5
    assert len(told) < 1000


def test_what_does_not_fit_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    check_space(tmp_path / "not/there/yet", 1)
    with pytest.raises(DataError, match=r"expected 1,000,000,000,000,000,000 free bytes.*data\.select"):
        check_space(tmp_path / "not/there/yet", 10**18)


def test_files_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert {name: status.st_size for name, status in stat_files(tmp_path, {"a", "b", "a/c"}).items()} == {"a": 3}
