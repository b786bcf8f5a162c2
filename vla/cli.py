"""`vla <stage|command>`: the only place that reads argv, prints and chooses exit codes.

A stage's flags are the keyword-only parameters of its `run`, their defaults are the paths in `dvc.yaml` and its
parameters are its sections of `params.yaml`, so `vla train` alone works. Those with a default of their own are no paths
but words for a person at the command line, which the module declares in `add_arguments` as a command does. Only the
module of the chosen word is imported: `vla --help` needs no torch.

Exit codes: 0 done, 1 a defect of ours (with its traceback), 2 something the user can mend (one message), 75
preempted after a checkpoint (run again to go on), 130 interrupted.
"""

import argparse
import importlib
import importlib.metadata
import inspect
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from vla import lifeline, reports
from vla.commands import COMMANDS
from vla.commands.places import require_place
from vla.dvc_file import PIPELINE, artifact_paths, output_names
from vla.errors import Preempted, UserError, place_errors_explained
from vla.registry import did_you_mean
from vla.stages import STAGES

WORDS = STAGES | COMMANDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage or command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    set_up_logging()
    if words and words[0] in STAGES:
        lifeline.start()
    try:
        with place_errors_explained():
            options = parse(words)
            if options.word in STAGES:
                run_stage(options.word, options)
            else:
                sys.stdout.write(importlib.import_module(WORDS[options.word][0]).run(options) + "\n")
    except UserError as error:
        return _refuse(words, str(error), 2)
    except Preempted as error:
        return _refuse(words, str(error), Preempted.exit_code)
    except KeyboardInterrupt:
        return _refuse(words, "interrupted", 130)
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The options of the chosen word; argparse prints help and usage errors, and exits."""
    parser = argparse.ArgumentParser(
        prog="vla",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="From robot demonstrations to a registered, evaluated vision-language-action policy.",
        epilog=f"stages, in the order of the pipeline:\n{_menu(STAGES)}\n\ncommands:\n{_menu(COMMANDS)}\n\n"
        "'vla <word> --help' shows the options of one; 'dvc repro' runs the stages that need it.",
    )
    parser.add_argument("--version", action="version", version=f"vlaflow {importlib.metadata.version('vlaflow')}")
    menu = parser.add_subparsers(dest="word", metavar="<stage|command>", required=True, help="see below")
    chosen = words[0] if words else ""
    for word, (module, summary) in WORDS.items():
        entry = menu.add_parser(word, description=f"{summary[0].upper()}{summary[1:]}.")
        if word == chosen and word in STAGES:
            _add_artifacts(entry, word)
        if word == chosen and (word in COMMANDS or words_of(word)):
            importlib.import_module(module).add_arguments(entry)
    if chosen and not chosen.startswith("-") and chosen not in WORDS:
        parser.error(f"expected a stage or a command, found {chosen!r}.{did_you_mean(chosen, list(WORDS))}")
    return parser.parse_args(words)


def artifacts_of(stage: str) -> list[str]:
    """Names of the files that a stage reads and writes: the keyword-only parameters of its `run` without default."""
    return [name for name, item in _parameters(stage).items() if item.default is item.empty]


def words_of(stage: str) -> list[str]:
    """Names of a stage's other flags: the keyword-only parameters of its `run` with a default."""
    return [name for name, item in _parameters(stage).items() if item.default is not item.empty]


def run_stage(stage: str, options: argparse.Namespace) -> None:
    """Read the stage's parameters and run it, with a report of how it went when one is asked for."""
    module = importlib.import_module(STAGES[stage][0])
    with reports.reported(stage) if _is_first_process() else nullcontext(), place_errors_explained():
        for name in output_names(stage):
            require_place(getattr(options, name))
        module.run(module.Config.load(), **{name: getattr(options, name) for name in _parameters(stage)})


def set_up_logging() -> None:
    """One line per record on stderr; of several torchrun processes only the first one tells how it goes."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("vla").setLevel(logging.INFO if _is_first_process() else logging.WARNING)


def _parameters(stage: str) -> dict[str, inspect.Parameter]:
    run = importlib.import_module(STAGES[stage][0]).run
    items = inspect.signature(run).parameters.items()
    return {name: item for name, item in items if item.kind is inspect.Parameter.KEYWORD_ONLY}


def _add_artifacts(parser: argparse.ArgumentParser, stage: str) -> None:
    defaults = artifact_paths(stage)
    for name in artifacts_of(stage):
        default = defaults.get(name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=Path,
            default=default,
            required=default is None,
            metavar="PATH",
            help=f"default: {default}" if default else f"no default here: {PIPELINE} has none",
        )


def _menu(words: dict[str, tuple[str, str]]) -> str:
    return "\n".join(f"  {word:<19}{summary}" for word, (_, summary) in words.items())


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _refuse(words: Sequence[str], message: str, code: int) -> int:
    sys.stderr.write(f"vla {words[0] if words else ''}: {message}\n")
    return code
