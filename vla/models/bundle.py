"""A bundle: a policy on disk, complete enough to act, without any file of the training run.

    <bundle>/model.safetensors  config.json  tokenizer.json  assets/<data name>/norm_stats.json  passport.json

The bundle digest covers weights, config, tokenizer and statistics: what decides an action. The passport (what made
the bundle) is beside it. Loading is strict: a missing file, a missing or unexpected weight or a wrong shape is an
error that names it.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vla import artifacts, registry
from vla.columns import Columns
from vla.config import Config
from vla.errors import CheckpointError
from vla.models.policy import Interface, Policy, PolicyConfig, PolicyModule, build_policy
from vla.normalization import NormStats
from vla.paths import FileName
from vla.terms import PolicySpec
from vla.tokenization import Tokenize
from vla.transforms import Processor, TransformsConfig

WEIGHTS, CONFIG, TOKENIZER, PASSPORT = "model.safetensors", "config.json", "tokenizer.json", "passport.json"
DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)
"""What initialises weights with random numbers."""


class BundleConfig(Config):
    """`config.json` of a bundle."""

    data_name: FileName
    fps: float
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    views: tuple[str, ...]
    columns: Columns
    """Which columns of the data the policy was trained on; those of the main dataset where it was a mixture."""
    state_columns: Mapping[str, int]
    """Column that the state is made of -> the dimensions that it has as a whole."""
    transforms: TransformsConfig
    policy: dict[str, Any]
    """Section `policy` with all that the policy's files say (`PolicyConfig.resolved`), parsed by its own Config."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded bundle; the policy is in eval mode."""

    policy: Policy[Any]
    spec: PolicySpec
    policy_config: PolicyConfig
    processor: Processor
    norm_stats: NormStats
    config: BundleConfig
    passport: Mapping[str, Any]
    digest: str
    path: Path

    @property
    def degenerate(self) -> dict[str, list[str]]:
        """Names of the state and action dimensions that normalisation maps to a constant."""
        sides = (
            ("state", self.config.state_names, self.processor.state),
            ("actions", self.config.action_names, self.processor.actions),
        )
        return {side: np.array(names)[normalize.degenerate].tolist() for side, names, normalize in sides}


def parse_policy(values: Mapping[str, Any], *, where: str) -> tuple[PolicyModule, PolicyConfig]:
    """The policy file that section `policy` names, and the section parsed by it."""
    module: Any = registry.find("policies", str(values.get("name")))
    return module, module.Config.parse(dict(values), where=where)


def make_interface(config: BundleConfig, tokenize: Tokenize) -> Interface:
    """What the data and the transforms of `config` offer a policy."""
    return Interface(
        views=config.views,
        image_size=config.transforms.image_size,
        state_dim=len(config.state_names),
        action_dim=len(config.action_names),
        max_tokens=tokenize.max_tokens,
        vocabulary=tokenize.vocabulary,
    )


def save(
    path: Path,
    *,
    weights: Mapping[str, Tensor],
    config: BundleConfig,
    norm_stats: NormStats,
    tokenize: Tokenize,
    passport: Mapping[str, Any],
) -> str:
    """Write a bundle and return its digest; `path` is replaced when everything is written."""
    with artifacts.new_directory(path) as partial:
        write_tensors(partial / WEIGHTS, weights)
        artifacts.write_json(partial / CONFIG, config.plain())
        artifacts.write_text(partial / TOKENIZER, tokenize.to_json())
        norm_stats.write(partial / "assets" / config.data_name / "norm_stats.json")
        digest = digest_of(partial)
        artifacts.write_json(partial / PASSPORT, {**passport, "bundle_digest": digest})
    return digest


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; raises OSError when the disk does not take it, which safetensors says in words only.

    Tensors that share memory, as tied weights do, are written once for each name.
    """
    written: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, value in tensors.items():
        own = value.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        written[name] = own.clone() if place in places else own
        places.add(place)
    try:
        save_file(written, path)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        raise


def digest_of(path: Path) -> str:
    """Digest of what decides the policy's actions; the passport is left out."""
    files = [item for item in path.rglob("*") if item.is_file() and item.name != PASSPORT]
    return artifacts.digest_of_files(files, root=path)


def load(path: Path, *, device: torch.device | str = "cpu") -> Bundle:
    """Load and verify a bundle; raises CheckpointError when anything is missing, damaged or does not fit."""
    passport = verify(path)
    config, tokenize, stats = read_processing(path)
    module, policy_config = parse_policy(config.policy, where=f"{path / CONFIG}: policy")
    spec = module.make_spec(policy_config, make_interface(config, tokenize))
    policy = build_empty(module, policy_config, spec)
    load_weights(policy, path / WEIGHTS)
    processor = Processor.make(config.transforms, config.views, stats, tokenize)
    digest = passport["bundle_digest"]
    return Bundle(policy.to(device).eval(), spec, policy_config, processor, stats, config, passport, digest, path)


class _NothingDrawn(TorchDispatchMode):
    """While this is open, every random number that is drawn into a tensor is 0.

    Left as it is in memory, one outside the bounds of a truncated distribution would be drawn again for ever.
    """

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        return args[0].zero_() if func in DRAWS else func(*args, **(kwargs or {}))


def build_empty(module: PolicyModule, cfg: PolicyConfig, spec: PolicySpec) -> Policy[Any]:
    """A policy whose weights are to be loaded next; to draw 3 billion of them first would take half a minute.

    It is not built on `meta`, because buffers that no file holds, such as positions, have their values already.
    """
    with _NothingDrawn():  # type: ignore[no-untyped-call]
        return build_policy(module, cfg, spec)[0]


def verify(path: Path) -> dict[str, Any]:
    """Compare a bundle with the digest in its passport; returns the passport, raises CheckpointError."""
    for name in (WEIGHTS, CONFIG, TOKENIZER, PASSPORT):
        if not (path / name).is_file():
            raise CheckpointError(
                f"{path}: expected a bundle with {name}, found none. Run 'dvc repro train', or give a bundle's folder."
            )
    passport: dict[str, Any] = artifacts.read_json(path / PASSPORT, made_by="dvc repro -f -s train")
    digest = digest_of(path)
    if passport.get("bundle_digest") != digest:
        raise CheckpointError(
            f"{path}: expected bundle digest {passport.get('bundle_digest')}, found {digest}: a file of the bundle was "
            f"changed or damaged. Restore it with 'dvc checkout --force', or run 'dvc repro -f -s train'."
        )
    return passport


def read_processing(path: Path) -> tuple[BundleConfig, Tokenize, NormStats]:
    """What a verified bundle says beside its weights."""
    config = BundleConfig.parse(artifacts.read_json(path / CONFIG, made_by="dvc repro train"), where=str(path / CONFIG))
    _, policy = parse_policy(config.policy, where=f"{path / CONFIG}: policy")
    text, max_tokens = (path / TOKENIZER).read_text(encoding="utf-8"), config.transforms.max_tokens
    tokenize = Tokenize.from_json(text, max_tokens, prompt=policy.prompt)
    return config, tokenize, NormStats.read(path / "assets" / config.data_name / "norm_stats.json")


def load_weights(policy: Policy[Any], path: Path) -> None:
    """Copy the weights at `path` into `policy`; every name and shape must match."""
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: expected safetensors, found a damaged file ({error}). Restore it.") from None
    check_weights(policy.state_dict(), weights, where=str(path), of=type(policy).__name__)
    policy.load_state_dict(weights)


def check_weights(own: Mapping[str, Tensor], found: Mapping[str, Tensor], *, where: str, of: str) -> None:
    """Raise CheckpointError unless `found` has the names and shapes of the policy's `own` weights."""
    wrong = [
        *(f"missing {name}" for name in own.keys() - found.keys()),
        *(f"unexpected {name}" for name in found.keys() - own.keys()),
        *(
            f"{name} has shape {list(found[name].shape)} instead of {list(own[name].shape)}"
            for name in own.keys() & found.keys()
            if own[name].shape != found[name].shape
        ),
    ]
    if wrong:
        shown = "; ".join(sorted(wrong)[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise CheckpointError(f"{where}: expected the weights of {of}, found {shown}.")
