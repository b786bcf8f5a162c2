"""Prefect flows over the pipeline. DVC stays the only owner of its stages; flows start it, follow it and show it.

Prefect reads these when it is imported. What the user has set stays.
"""

import os

for _name, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}.items():
    os.environ.setdefault(_name, _value)
