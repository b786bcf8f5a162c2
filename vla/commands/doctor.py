"""`vla doctor`: whether this machine can run the pipeline. Exits with 2 when something would not work."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from vla import workspace
from vla.commands import doctor_machine as machine
from vla.commands import doctor_training as training
from vla.commands.doctor_machine import Check, bad, good
from vla.dvc_file import artifact_paths
from vla.errors import UserError
from vla.training.train import Config

NOTE = """each line is one check; a line that begins with BAD says what to do, and then the exit code is 2.
versions are compared with the oldest ones without known holes, free space with what checkpoints of
the last training take, workers and devices with section 'execution' of params.yaml in this folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = NOTE
    parser.add_argument(
        "--all-reduce",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="try a sum over two processes, and over all GPUs where there are several (default: yes)",
    )
    parser.add_argument(
        "--loader",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="where there are data and a training, measure the loader for two seconds; "
        "it decodes first what no training has kept decoded (default: yes)",
    )


def run(options: argparse.Namespace) -> str:
    """One line per check; raises UserError with all of them when one failed."""
    checks = list(_checks(all_reduce=options.all_reduce, loader=options.loader))
    width = max(len(check.what) for check in checks) + 2
    lines = [f"{'ok ' if check.good else 'BAD'}  {check.what:<{width}}{check.found}" for check in checks]
    if not all(check.good for check in checks):
        raise UserError("\n".join(["something here would not work:", *lines]))
    return "\n".join(lines)


def _checks(*, all_reduce: bool, loader: bool) -> Iterator[Check]:
    cfg, problem = _settings()
    bundle = artifact_paths("train").get("policy")
    yield from machine.versions()
    yield from machine.programs()
    yield from machine.devices()
    yield from machine.disks(bundle, kept=cfg.execution.keep_checkpoints if cfg else 1)
    yield machine.file_system(workspace.local_store())
    yield machine.shared_memory()
    yield machine.ports(os.environ)
    yield from training.settings(cfg) if cfg else [problem]
    yield training.environment()
    yield training.tracking()
    if all_reduce:
        yield from training.exchanges()
    if loader and cfg:
        yield training.loader(cfg)


def _settings() -> tuple[Config | None, Check]:
    """The parameters of this folder; else what is wrong with them."""
    if not Path("params.yaml").is_file():
        return None, good("workers", "no params.yaml in this folder")
    try:
        return Config.load(), good("workers", "")
    except UserError as error:
        return None, bad("workers", str(error))
