"""Loaded before any test module: mlflow finds its environment (telemetry off, short timeouts) when it is imported."""

from hypothesis import settings

import vla.tracking  # noqa: F401

# Examples are timed by no clock: other work on the machine must not decide a test.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
