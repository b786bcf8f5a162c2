"""A pretrained PaliGemma's own files: its sizes from config.json, its weights from safetensors, strictly.

transformers reads both and knows the names that weights had in its releases before 5; what it leaves out or does not
understand is an error here.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from transformers import PaliGemmaConfig, PaliGemmaModel
from transformers.utils import logging as transformers_logging

from vla import assets
from vla.artifacts import read_foreign_json
from vla.assets import Asset
from vla.errors import CheckpointError, ConfigError
from vla.models.backbone import SiglipSize
from vla.models.backbone_paligemma import BackboneConfig, PaliGemmaBackbone, TextSize, model_config

WHERE = "policy.backbone"
UNUSED = (
    "lm_head.weight",
    "language_model.lm_head.weight",
    "vision_tower.head",
    "vision_tower.vision_model.head",
)
"""Beginnings of the names of weights that a source may have and no hidden state depends on."""
TEXT_FIELDS = (
    "hidden_act",
    "hidden_activation",
    "rms_norm_eps",
    "attention_bias",
    "attn_logit_softcapping",
    "rope_parameters",
)
VISION_FIELDS = ("hidden_act", "layer_norm_eps", "num_channels")
SHOWN = 8
"""Weights that a message names."""


def resolved(cfg: BackboneConfig) -> BackboneConfig:
    """`cfg` with the sizes that its source's config.json says; as it is for random weights.

    Raises ConfigError where `cfg` states others, or where the source is no PaliGemma.
    """
    if cfg.asset is None:
        return cfg
    found = assets.find(cfg.asset, ["config.json"], where=WHERE)
    own = _sizes(found.paths[0])
    for key, value in own.items():
        stated = getattr(cfg, key)
        if stated not in (None, value):
            raise ConfigError(
                f"{WHERE}.{key}: expected what {found.paths[0]} says ({value}), found {stated}. Leave {key} out."
            )
    return cfg.model_copy(update=own)


def find_weights(cfg: BackboneConfig) -> Asset | None:
    """The files of the source; None for random weights."""
    return None if cfg.asset is None else assets.find(cfg.asset, ["config.json", "*.safetensors*"], where=WHERE)


def load_weights(backbone: PaliGemmaBackbone, asset: Asset) -> None:
    """Copy a source's weights into `backbone`; raises CheckpointError unless names and shapes match.

    Layers of the source above the backbone's last one are left out.
    """
    source = dict(_read(asset.root))
    own = {
        name.replace(".base_layer.", "."): value
        for name, value in backbone.model.state_dict().items()
        if ".lora_" not in name
    }
    wrong = [*(f"missing {name}" for name in own.keys() - source.keys())]
    wrong += [
        f"{name} has shape {list(source[name].shape)} instead of {list(value.shape)}"
        for name, value in own.items()
        if name in source and source[name].shape != value.shape
    ]
    _refuse(asset.root, wrong)
    for name, value in own.items():
        value.copy_(source[name])


def _sizes(path: Path) -> dict[str, Any]:
    """What config.json says, as fields of BackboneConfig."""
    values = read_foreign_json(path)
    if values.get("model_type") != "paligemma":
        raise ConfigError(
            f"{path}: expected the model_type paligemma, found {values.get('model_type')}. Correct {WHERE}.source."
        )
    config: Any = PaliGemmaConfig.from_dict(values)
    text, vision = config.text_config, config.vision_config
    sizes = {
        "vision": SiglipSize.parse(
            {
                "width": vision.hidden_size,
                "depth": vision.num_hidden_layers,
                "mlp_dim": vision.intermediate_size,
                "heads": vision.num_attention_heads,
                "patch_size": vision.patch_size,
            },
            where=f"{path}: vision_config",
        ),
        "text": TextSize.parse(
            {
                "family": text.model_type,
                "width": text.hidden_size,
                "depth": text.num_hidden_layers,
                "mlp_dim": text.intermediate_size,
                "heads": text.num_attention_heads,
                "kv_heads": text.num_key_value_heads,
                "head_dim": text.head_dim,
                "vocabulary": text.vocab_size,
                "query_scale": getattr(text, "query_pre_attn_scalar", TextSize.model_fields["query_scale"].default),
            },
            where=f"{path}: text_config",
        ),
        "image_size": vision.image_size,
    }
    _compare(
        path,
        config,
        model_config(sizes["vision"], sizes["text"], image_size=vision.image_size, vocabulary=text.vocab_size),
    )
    return sizes


def _compare(path: Path, found: Any, built: Any) -> None:
    """Raises ConfigError where the source computes in another way than the backbone of its sizes."""
    for part, fields in (("text_config", TEXT_FIELDS), ("vision_config", VISION_FIELDS)):
        for field in fields:
            if not hasattr(getattr(built, part), field):
                continue  # the other family's name
            theirs, ours = (getattr(getattr(config, part), field) for config in (found, built))
            if theirs != ours:
                raise ConfigError(
                    f"{path}: {part}.{field}: expected {ours}, as all published PaliGemma models have it, found "
                    f"{theirs}. Correct {WHERE}.source."
                )


def _read(root: Path) -> Mapping[str, Tensor]:
    """Name -> weight of the source as PaliGemmaModel has them, in the type in which they are stored."""
    try:
        with _quiet():  # its report of wrong keys becomes our message
            loaded: Any = PaliGemmaModel.from_pretrained(
                root, local_files_only=True, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True
            )
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{root}: expected the weights of a PaliGemma, found damaged files ({error}). Fetch them again."
        ) from None
    model, info = loaded
    _refuse(root, list(_faults(info)))
    weights: Mapping[str, Tensor] = model.state_dict()
    return weights


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers says nothing but errors meanwhile, and shows no progress, which logs hold line by line."""
    verbosity, shown = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()


def _faults(info: Mapping[str, Any]) -> Iterator[str]:
    """What transformers says about weights that are not as expected."""
    for name in info["missing_keys"]:
        yield f"missing {name}"
    for name in info["unexpected_keys"]:
        if not name.removeprefix("model.").startswith(UNUSED):
            yield f"unexpected {name}"
    for name, found, expected in info["mismatched_keys"]:
        yield f"{name} has shape {list(found)} instead of {list(expected)}"


def _refuse(root: Path, wrong: list[str]) -> None:
    if wrong:
        shown = "; ".join(sorted(wrong)[:SHOWN]) + (f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")
        raise CheckpointError(f"{root}: expected the weights of a PaliGemma of its config.json, found {shown}.")
