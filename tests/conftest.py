"""Loaded before any test module: mlflow finds its environment (telemetry off, short timeouts) when it is imported.

`make test` tests in several processes. A file is tested by one of them, in order, and so shares its fixtures; tests
that are marked with the same `xdist_group` are tested by one process too, hence never at the same time.
"""

from collections.abc import Generator

import pytest
from hypothesis import settings

import vla.tracking  # noqa: F401

# Examples are timed by no clock: other work on the machine must not decide a test.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests come first: no process is then left with one when the others have nothing more to do."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Without the group, which xdist adds to a test's name, the name can be given to pytest and `--last-failed`."""
    report = yield
    group = item.get_closest_marker("xdist_group")
    assert group is not None
    report.nodeid = report.nodeid.removesuffix(f"@{group.args[0]}")
    return report
