"""Where this machine keeps what is no output of a stage: training states, decoded frames, the default tracking store.

All of it lies in `.vla` of the main checkout, also when a stage runs in an experiment's temporary workspace or in a
git worktree, so that a trial finds the state that an earlier one left.
"""

import os
import subprocess
from pathlib import Path


def main_checkout() -> Path:
    """The main checkout that the current project belongs to; the project folder itself when there is no git."""
    root = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    command = ["git", "-C", str(root), "rev-parse", "--path-format=absolute", "--git-common-dir"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return root
    return Path(answer.stdout.strip()).parent


def local_store() -> Path:
    """`.vla` of the main checkout."""
    return main_checkout() / ".vla"


def experiment_name() -> str | None:
    """Name of the DVC experiment that this stage runs in, or None in the user's own workspace."""
    return os.environ.get("DVC_EXP_NAME") or None
