"""What NCCL and torch read from a worker's environment; a value that the user has set stays.

Allocator and NCCL read these once, so they are set before a device is used: by the process that starts workers, which
hands them on, and again in each worker, which may be on another machine or started by somebody's own torchrun.
"""

import os
from collections.abc import Mapping

DEFAULTS = {
    "NCCL_DEBUG": "WARN",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
"""Variable -> value. NCCL says why it failed in place of an error code alone; the allocator grows what it has, as
batches of changing size otherwise leave holes that nothing fits into."""
OLDER_NAMES = {"PYTORCH_ALLOC_CONF": "PYTORCH_CUDA_ALLOC_CONF"}
"""Variable -> the name that torch reads as well."""


def missing(environment: Mapping[str, str]) -> dict[str, str]:
    """The defaults that `environment` has no value of its own for."""
    return {
        name: value
        for name, value in DEFAULTS.items()
        if name not in environment and OLDER_NAMES.get(name, name) not in environment
    }


def complete() -> None:
    """Add to this process's environment what it is missing."""
    os.environ.update(missing(os.environ))
