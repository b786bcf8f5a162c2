"""Training that begins with the weights of a bundle (`train.init_from`) in place of random ones.

Only the weights are taken over: optimizer, average, order and noise begin anew. The bundle's tokenizer comes with them,
whatever `transforms.tokenizer` says, since the rows of the embedding belong to its vocabulary. Statistics are those of
the new data unless `norm_stats.reuse` names the bundle's, and how far they lie apart is said before training.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from vla.errors import CheckpointError
from vla.models import bundle
from vla.models.bundle import BundleConfig
from vla.models.policy import Policy, PolicyConfig
from vla.normalization import NormStats, Statistics
from vla.tokenization import Tokenize, TokenizerChoice, TokenizerSource
from vla.training.self_checks import Finding

SHIFTED, SPREAD = 0.5, 2.0
"""Means that are so many deviations apart, or deviations of such a ratio, are worth a warning."""
NAMED = 8
"""Words that a warning names."""
FREE = frozenset({"policy.num_steps", "policy.sampler"})
"""What is no matter of any policy's weights."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The bundle that a training begins with."""

    path: Path
    config: BundleConfig
    tokenize: Tokenize
    norm_stats: NormStats

    @classmethod
    def read(cls, path: Path, *, digest: str) -> Self:
        """All but the weights; raises CheckpointError when the bundle is not that of `digest` any more."""
        found = bundle.verify(path)["bundle_digest"]
        if found != digest:
            raise CheckpointError(
                f"{path}: expected the bundle {digest[:16]} as at the start of the training, found {found[:16]}. Run "
                f"'dvc repro -f -s train' to begin with this one."
            )
        config, tokenize, stats = bundle.read_processing(path)
        return cls(path, config, tokenize, stats)

    def check(self, config: BundleConfig) -> None:
        """Raise CheckpointError that names everything by which `config` is not that of the bundle's policy."""
        (policy, here), (original, there) = _interface(config), _interface(self.config)
        compared = (here.keys() | there.keys()) - FREE - policy.transferable
        if policy.name != original.name:  # no other setting can be compared
            compared = {"policy.name"}
        wrong = [
            f"{name}: {there.get(name)} in the bundle, {here.get(name)} here"
            for name in sorted(compared)
            if here.get(name) != there.get(name)
        ]
        if wrong:
            raise CheckpointError(
                f"{self.path}: expected a bundle of this policy for this data, found another: {'; '.join(wrong)}. "
                f"Change params.yaml, or train.init_from."
            )

    def load_weights(self, policy: Policy[Any]) -> None:
        """Put the bundle's weights into `policy`; every name and shape must match."""
        bundle.load_weights(policy, self.path / bundle.WEIGHTS)

    def findings(self, stats: NormStats, instructions: Sequence[str], tokenizer: TokenizerChoice) -> Iterator[Finding]:
        """What a person should know of the new data, and of `transforms.tokenizer`, before they are trained on."""
        if isinstance(tokenizer, TokenizerSource) and tokenizer != self.config.transforms.tokenizer:
            said = f"the bundle's is used, and not {tokenizer.source} of transforms.tokenizer"
            yield Finding("tokenizer", said, warning=True)
        unknown = self.tokenize.unknown_words(instructions)
        said = f"{len(unknown)} words are unknown to the bundle's tokenizer: {', '.join(unknown[:NAMED])}"
        yield Finding("instructions", said if unknown else "all words are known to the bundle", warning=bool(unknown))
        for quantity, names in (("state", self.config.state_names), ("actions", self.config.action_names)):
            yield _statistics(quantity, names, there=getattr(self.norm_stats, quantity), here=getattr(stats, quantity))


def _interface(config: BundleConfig) -> tuple[PolicyConfig, dict[str, Any]]:
    """What the weights depend on, by the names of params.yaml."""
    _, policy = bundle.parse_policy(config.policy, where="policy")
    return policy, {
        **{f"policy.{name}": value for name, value in policy.plain().items()},
        "views": list(config.views),
        "transforms.image_size": list(config.transforms.image_size),
        "transforms.max_tokens": config.transforms.max_tokens,
        "state dimensions": len(config.state_names),
        "action dimensions": len(config.action_names),
    }


def _statistics(quantity: str, names: Sequence[str], *, there: Statistics, here: Statistics) -> Finding:
    """Where the statistics in use lie farthest from the bundle's."""
    if here.dims != there.dims:
        return Finding(f"norm stats of {quantity}", f"{there.dims} dimensions in the bundle, {here.dims} here")
    std = np.maximum(np.asarray(there.std, dtype=np.float64), 1e-12)
    shift_D = np.abs(np.asarray(here.mean) - np.asarray(there.mean)) / std
    ratio_D = np.maximum(np.asarray(here.std, dtype=np.float64), 1e-12) / std
    distance_D = np.maximum(shift_D / SHIFTED, np.abs(np.log(ratio_D)) / np.log(SPREAD))
    worst = int(np.argmax(distance_D))
    found = (
        f"mean of {names[worst]} {shift_D[worst]:.2g} deviations from the bundle's, spread {ratio_D[worst]:.2g} times"
    )
    far = bool(distance_D[worst] > 1)
    advice = "; if it is the same robot, name the bundle in norm_stats.reuse" if far else ""
    return Finding(f"norm stats of {quantity}", found + advice, warning=far)
