"""`vla predict`: the action chunk of a policy for image files, an instruction and a state, as JSON."""

import argparse
import json
from pathlib import Path

from vla.dvc_file import artifact_paths
from vla.errors import ConfigError
from vla.evaluation.predict import predict_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    policy = artifact_paths("train").get("policy")
    parser.add_argument(
        "--policy",
        type=Path,
        default=policy,
        required=policy is None,
        metavar="PATH",
        help=f"folder of a bundle (default: {policy})",
    )
    parser.add_argument("--image", action="append", default=[], metavar="VIEW=FILE", help="once per view of the policy")
    parser.add_argument("--instruction", required=True, help="what the robot is to do")
    parser.add_argument(
        "--state", metavar="X,Y,...", help="proprioception in raw units; --state=-1,... when it begins with a minus"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise that the actions are sampled from")


def run(options: argparse.Namespace) -> str:
    """Raises ConfigError for a word that is no `view=file` and for a state that is no list of numbers."""
    result = predict_files(
        options.policy,
        images=_images(options.image),
        instruction=options.instruction,
        state=None if options.state is None else _state(options.state),
        seed=options.seed,
    )
    return json.dumps(result, indent=2)


def _images(words: list[str]) -> dict[str, Path]:
    images = {}
    for word in words:
        view, equals, file = word.partition("=")
        if not (view and equals and file):
            raise ConfigError(f"--image: expected VIEW=FILE, found {word!r}. Write, for example, front=front.png.")
        images[view] = Path(file)
    return images


def _state(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--state: expected numbers with commas between, found {text!r}. Correct it.") from None
