"""The errors a user can cause. Each message reads: where: what was expected, what was found. What to do.

The command line prints one of these as a single message and exits with 2; every other exception is a
defect of ours and keeps its traceback.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

PLACE_ERRORS = {
    errno.EACCES: "Give this user the permission, or choose another place",
    errno.EPERM: "Give this user the permission, or choose another place",
    errno.EROFS: "Choose a place on a disk that can be written",
    errno.ENOSPC: "Free some space ('vla clean' and 'dvc gc -w' help), or choose another place",
    errno.EDQUOT: "Free some space ('vla clean' and 'dvc gc -w' help), or choose another place",
    errno.EFBIG: "Raise the limit of a file's size (ulimit -f), or choose another place",
    errno.ENOTDIR: "Remove the file that stands where a folder is needed, or choose another place",
    errno.EEXIST: "Remove the file that stands where a folder is needed, or choose another place",
}
"""Errors of a place on disk, which the user can mend -> what to do."""


class UserError(Exception):
    """Something the user can mend; never raised for a defect of our own."""


class ConfigError(UserError, ValueError):
    """A parameter is missing, misspelt, of the wrong type or at odds with another one."""


class DataError(UserError, ValueError):
    """The contents of a file or a dataset are not what the pipeline needs."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint, a bundle or a training state is damaged, incomplete or of another run."""


class TrackingError(UserError, RuntimeError):
    """The tracking server or the model registry did not answer or refused."""


class LaunchError(UserError, RuntimeError):
    """A launcher cannot start what was asked for: too few CPUs, no GPU, an address that does not answer."""


class WorkerHungError(LaunchError):
    """A worker has waited for another one in vain; to begin again from the last checkpoint may help."""


class Preempted(Exception):  # noqa: N818  # an outcome, not an error
    """Training stopped on request after a checkpoint; the next run continues it."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h: not a failure, try again."""


@contextmanager
def place_errors_explained() -> Iterator[None]:
    """Turn errors of a place on disk (no permission, no space) into a UserError; others pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in PLACE_ERRORS:
            raise
        place = error.filename or "disk"
        advice = PLACE_ERRORS[error.errno]
        raise UserError(f"{place}: expected a place to read or write, found '{error.strerror}'. {advice}.") from error
