"""`python -m vla.training.worker JOB`: a torchrun worker of a training that `vla train` started."""

import json
import sys
from pathlib import Path

from vla.errors import UserError
from vla.execution import ExecutionConfig
from vla.training import distributed, launch, launch_settings


def main() -> int:
    """Work; returns the exit code. The process that waits shows a user's error."""
    launch_settings.complete()
    values = json.loads(Path(sys.argv[1]).read_text())
    execution = ExecutionConfig.parse(values["job"]["cfg"]["execution"], where="job: execution")
    try:
        with (
            distributed.torchrun(execution.device, timeout=execution.timeout) as context,
            context.catching_signals(),
        ):
            launch.work(values["job"], values["driver"], context)
    except UserError:
        return 2
    except distributed.PeerLostError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
