"""`vla export BUNDLE --layout openpi|lerobot --out DIR`: a pi0 or pi0.5 trained here, for other projects to load."""

import argparse
from pathlib import Path
from typing import get_args

from vla.commands.places import require_new
from vla.dvc_file import artifact_paths
from vla.models.checkpoints import exporting
from vla.models.checkpoints.settings import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", type=Path, metavar="BUNDLE", help=f"such as {artifact_paths('train').get('policy')}")
    parser.add_argument("--layout", choices=get_args(Layout), required=True, help="whose checkpoint to write")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new checkpoint")


def run(options: argparse.Namespace) -> str:
    """Raises CheckpointError for a policy that the other project does not have."""
    require_new(options.out)
    return str(exporting.export(options.policy, options.layout, options.out))
