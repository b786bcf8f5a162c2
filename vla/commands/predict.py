"""`vla predict`: the action chunk of a policy for image files, an instruction and a state, as JSON.

An image's key is the name of a view, the column that the policy was trained on, or a key of BEHAVIOR-1K's simulator.
"""

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
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="KEY=FILE",
        help="once per view: its name, its column in the data, or the simulator's key",
    )
    parser.add_argument("--observation", type=Path, metavar="FILE.npz", help="images and state as arrays by such keys")
    parser.add_argument("--instruction", required=True, help="what the robot is to do")
    parser.add_argument(
        "--state",
        metavar="X,Y,...",
        help="proprioception in raw units, the policy's values or the whole column; --state=-1,... before a minus",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise that the actions are sampled from")
    parser.add_argument(
        "--compile", action="store_true", help="make kernels first, as for a policy that acts many times: takes minutes"
    )


def run(options: argparse.Namespace) -> str:
    """Raises ConfigError for words that are no `key=file`, keys that come twice and a state that is no numbers."""
    result = predict_files(
        options.policy,
        images=_images(options.image),
        observation=options.observation,
        instruction=options.instruction,
        state=None if options.state is None else _state(options.state),
        seed=options.seed,
        compiled=options.compile,
    )
    return json.dumps(result, indent=2)


def _images(words: list[str]) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for word in words:
        key, equals, file = word.partition("=")
        if not (key and equals and file):
            raise ConfigError(f"--image: expected KEY=FILE, found {word!r}. Write, for example, front=front.png.")
        if key in images:
            raise ConfigError(f"--image: expected each key once, found {key!r} twice. Give one file for it.")
        images[key] = Path(file)
    return images


def _state(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--state: expected numbers with commas between, found {text!r}. Correct it.") from None
