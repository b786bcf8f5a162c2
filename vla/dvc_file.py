"""What `dvc.yaml` says about the stages; it alone states the paths of the artifacts.

A stage's `cmd` is `python -m vla <stage> --<artifact> <path> ...`; parsing it gives the command line its defaults and
the other commands the places to read.
"""

import shlex
from pathlib import Path
from typing import Any

import yaml

from vla.errors import ConfigError

PIPELINE = Path("dvc.yaml")


def artifact_paths(stage: str, *, pipeline: Path = PIPELINE) -> dict[str, Path]:
    """Artifact name (with underscores) -> path, from the stage's `cmd`; empty when there is no such file or stage."""
    command = read_stages(pipeline).get(stage, {}).get("cmd", "")
    words = shlex.split(command)
    flags = words[words.index(stage) + 1 :] if stage in words else []
    return {
        flag.removeprefix("--").replace("-", "_"): Path(value)
        for flag, value in zip(flags[::2], flags[1::2], strict=True)
    }


def output_names(stage: str, *, pipeline: Path = PIPELINE) -> list[str]:
    """Names of the artifacts that the stage writes: those whose paths are its outs, metrics or plots."""
    described = read_stages(pipeline).get(stage, {})
    entries = [entry for key in ("outs", "metrics", "plots") for entry in described.get(key, [])]
    written = {Path(path) for entry in entries for path in ([entry] if isinstance(entry, str) else entry)}
    return [name for name, path in artifact_paths(stage, pipeline=pipeline).items() if path in written]


def read_stages(pipeline: Path) -> dict[str, dict[str, Any]]:
    """The mapping `stages` of a dvc.yaml, in its order; empty when there is no such file."""
    try:
        content = yaml.safe_load(pipeline.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{pipeline}: expected YAML, found {error}. Mend the line it names.") from None
    stages: dict[str, dict[str, Any]] = (content or {}).get("stages", {})
    return stages
