"""A checkpoint of another project to a bundle, strictly: every weight of the policy is there, and nothing else."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla import artifacts
from vla.columns import Columns, Vector
from vla.errors import CheckpointError, ConfigError
from vla.models import bundle
from vla.models.bundle import BundleConfig
from vla.models.checkpoints import lerobot, names, openpi, tensors
from vla.models.checkpoints.settings import Layout, Settings, Stated
from vla.models.checkpoints.sizes import Kind, Sizes, kind_of
from vla.tokenization import Tokenize
from vla.transforms import Processor

READ = {"openpi": openpi.read, "lerobot": lerobot.read}


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a checkpoint by our names, float32."""

    layout: Layout
    kind: Kind
    tensors: Mapping[str, Tensor]
    unknown: tuple[str, ...]
    """Names in the file that none of our parts has."""
    notes: tuple[str, ...]
    """What was left out, taken from elsewhere or converted."""
    path: Path

    @classmethod
    def read(cls, root: Path) -> "Weights":
        """Those in a folder; raises CheckpointError when it is neither openpi's nor LeRobot's."""
        layout, path = detect(root), tensors.find(root)
        translated = names.translate(tensors.read(path), where=str(path))
        weights, converted = tensors.to_float32(translated.weights, where=str(path))
        kind = kind_of(weights, where=str(path))
        return cls(layout, kind, weights, translated.unknown, (*translated.notes, *converted), path)

    def check(self, own: Mapping[str, Tensor]) -> None:
        """Raise CheckpointError unless these are the weights of the policy with the state dict `own`."""
        expected, found = names.untranslate(own), names.untranslate(self.tensors)
        unknown = dict.fromkeys(self.unknown, torch.empty(0))
        bundle.check_weights(expected, found | unknown, where=str(self.path), of=self.kind)

    def parts(self) -> dict[str, int]:
        """Parameters of each part."""
        count: Counter[str] = Counter()
        for name, tensor in self.tensors.items():
            count[name.partition(".")[0]] += tensor.numel()
        return dict(count)


@dataclass(frozen=True, slots=True)
class Report:
    """What an import took over."""

    weights: Weights
    config: BundleConfig
    notes: Sequence[str]
    digest: str
    out: Path

    def __str__(self) -> str:
        parts, config, used = self.weights.parts(), self.config, self.config.transforms.normalization
        lines = [
            ("layout", f"{self.weights.layout}, {self.weights.kind}"),
            ("weights", f"{sum(parts.values()):,} parameters in {len(self.weights.tensors)} tensors, all matched"),
            *((f"  {part}", f"{count:,}") for part, count in parts.items()),
            ("views", f"{', '.join(config.views)} at {' x '.join(map(str, config.transforms.image_size))}"),
            ("state", f"{len(config.state_names)} dimensions ({used.state}, formula {used.formula})"),
            ("actions", f"{len(config.action_names)} dimensions ({used.actions}, formula {used.formula})"),
            *(("note", note) for note in self.notes),
            ("bundle", f"{self.out}, digest {self.digest}"),
        ]
        return "\n".join(f"{name:<18}{value}" for name, value in lines)


def detect(root: Path) -> Layout:
    """Whose checkpoint a folder holds, by its `config.json`."""
    if (root / bundle.PASSPORT).is_file():
        raise CheckpointError(
            f"{root}: expected a checkpoint of another project, found a bundle, which needs no import. Name it in "
            f"train.init_from, or give it to 'vla predict'."
        )
    path = root / lerobot.CONFIG
    config = artifacts.read_foreign_json(path) if path.is_file() else {}
    if "type" not in config:
        return "openpi"
    if config["type"] not in ("pi0", "pi05"):
        raise CheckpointError(
            f"{path}: expected a LeRobot policy of type pi0 or pi05, found {config['type']!r}. Only these two can be "
            f"imported."
        )
    return "lerobot"


def import_checkpoint(root: Path, stated: Stated, out: Path, *, source: Mapping[str, Any]) -> Report:
    """Write the bundle of the checkpoint in `root`; `source` says in its passport where the files came from."""
    weights = Weights.read(root)
    sizes = Sizes(weights.tensors, where=str(weights.path), vision_heads=stated.vision_heads)
    settings = READ[weights.layout](root, weights.kind, stated)
    config = _config(weights.kind, sizes, settings, stated)
    module, policy_config = bundle.parse_policy(config.policy, where=str(root))
    tokenize = Tokenize.read(_tokenizer(root, stated), settings.max_tokens, prompt=policy_config.prompt)
    Processor.make(config.transforms, config.views, settings.norm_stats, tokenize)  # refuses what could not act
    with torch.device("meta"):
        policy, _ = module.build(
            policy_config, module.make_spec(policy_config, bundle.make_interface(config, tokenize))
        )
    weights.check(policy.state_dict())
    notes = (*weights.notes, *settings.notes)
    digest = bundle.save(
        out,
        weights=weights.tensors,
        config=config,
        norm_stats=settings.norm_stats,
        tokenize=tokenize,
        passport={
            "inputs": {"weights": artifacts.digest_of_file(weights.path)},
            "imported": {**source, "layout": weights.layout, "notes": list(notes)},
        },
    )
    return Report(weights, config, notes, digest, out)


def _config(kind: Kind, sizes: Sizes, settings: Settings, stated: Stated) -> BundleConfig:
    stats = settings.norm_stats
    if Vector.parse(stated.state).whole_column is None:
        raise ConfigError(f"--state: expected the name of a column, found {stated.state!r}. Give a whole column.")
    policy = {
        **sizes.policy(kind),
        "action_horizon": settings.action_horizon,
        "num_steps": settings.num_steps,
        "attention": "sdpa",
        "freeze_vision_tower": False,
        "freeze_language_model": False,
    }
    _, parsed = bundle.parse_policy(policy, where="the checkpoint's weights")
    return BundleConfig.parse(
        {
            "data_name": stated.data_name,
            "fps": stated.fps,
            "state_names": stats.names("state"),
            "action_names": stats.names("actions"),
            "views": list(settings.views),
            "columns": Columns(state=stated.state, actions=stated.actions, views=settings.views).plain(),
            "state_columns": {stated.state: stats.state.dims},
            "transforms": {
                "image_size": [sizes.image_size, sizes.image_size],
                "max_tokens": settings.max_tokens,
                "tokenizer": {"source": bundle.TOKENIZER},
                "normalization": settings.normalization,
                "delta_actions": list(settings.delta_actions),
                "augment": {"shift_px": 0},
            },
            "policy": parsed.plain(),
        },
        where="the command line",
    )


def _tokenizer(root: Path, stated: Stated) -> Path:
    path = stated.tokenizer or root / bundle.TOKENIZER
    if not path.is_file():
        raise CheckpointError(
            f"{path}: expected the tokenizer that the policy was trained with, found none. Give --tokenizer: the "
            f"tokenizer.json of PaliGemma, such as that of google/paligemma-3b-pt-224."
        )
    return path
