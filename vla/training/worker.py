"""`python -m vla.training.worker JOB`: a torchrun worker of a training that `vla train` started."""

import json
import sys
from pathlib import Path

from vla.training import distributed, launch


def main() -> None:
    values = json.loads(Path(sys.argv[1]).read_text())
    with distributed.torchrun(values["job"]["cfg"]["execution"]["device"]) as context, context.catching_signals():
        launch.work(values["job"], values["driver"], context)


if __name__ == "__main__":
    main()
