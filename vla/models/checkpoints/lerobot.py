"""LeRobot's pi0 and pi0.5 policies: what lies beside the weights, as version 0.6.1 writes it and 0.4.4 reads it.

    model.safetensors   config.json   policy_preprocessor.json   policy_postprocessor.json   *_processor.safetensors

`config.json` names the policy, its features and how they are normalised; the statistics lie in the files of the
processors' steps (vla/models/checkpoints/lerobot_processors.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla import artifacts
from vla.columns import short_names
from vla.errors import CheckpointError
from vla.models.bundle import Bundle
from vla.models.checkpoints import lerobot_processors as processors
from vla.models.checkpoints import relative
from vla.models.checkpoints.expressed import expressed
from vla.models.checkpoints.openpi import variant
from vla.models.checkpoints.settings import ACTION, IMAGES, STATE, Settings, Stated, horizon, with_names
from vla.models.checkpoints.sizes import Kind
from vla.normalization import Method, Normalize, NormStats

CONFIG = "config.json"
EMPTY = f"{IMAGES}empty_camera_"
"""Views without a camera: black and masked, as if they were not there."""
MODES: Mapping[str, Method] = {"QUANTILES": "quantile", "MEAN_STD": "mean_std", "MIN_MAX": "min_max"}
RAW = "IDENTITY"
OLD_PROMPT = "if LeRobot 0.4 trained it, its prompts said zeros behind the state up to max_state_dim; ours do not"


def read(root: Path, kind: Kind, stated: Stated) -> Settings:
    """What the folder and a person say of it."""
    config = artifacts.read_foreign_json(root / CONFIG)
    where = str(root / CONFIG)
    if config.get("type") != kind:
        raise CheckpointError(
            f"{where}: expected the type {kind}, of which the weights are, found {config.get('type')!r}. Get the files "
            f"of one checkpoint."
        )
    normalizer = processors.read(root, config)
    stats = with_names(
        _statistics(root, normalizer, stated),
        state=stated.state_names,
        actions=stated.action_names or config.get("action_feature_names") or (),
    )
    relative_dims = relative.mask(config, stats.names("actions")) if config.get("use_relative_actions") else []
    return Settings(
        action_horizon=horizon(stated, _required(config, "chunk_size", where), where=where),
        num_steps=_required(config, "num_inference_steps", where),
        max_tokens=stated.max_tokens or _required(config, "tokenizer_max_length", where),
        views=stated.views or _views(config, where),
        norm_stats=stats,
        normalization=_normalization(normalizer, stats, where=where),
        delta_actions=relative.ranges(relative_dims),
        notes=(OLD_PROMPT,) if kind == "pi05" and "use_relative_actions" not in config else (),
    )


def write(folder: Path, bundle: Bundle) -> list[str]:
    """Write what belongs beside the weights; returns what a person should know."""
    used, processor, stats = bundle.config.transforms.normalization, bundle.processor, bundle.norm_stats
    modes = {"VISUAL": RAW, "STATE": _mode(processor.state), "ACTION": _mode(processor.actions)}
    config = _config(bundle, modes)
    # Not sorted: the order of the features is that of the cameras.
    artifacts.write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    said = {
        STATE: expressed(stats.state, processor.state, processor.state.method, "lerobot"),
        ACTION: expressed(stats.actions, processor.actions, processor.actions.method, "lerobot"),
    }
    processors.write(folder, config, said)
    notes = [f"LeRobot takes the tokenizer {processors.TOKENIZER} from the hub: tokenizer.json is for this project"]
    if used.formula != "lerobot":
        notes.append("statistics are changed so that LeRobot's formula makes the bundle's map of them")
    if "custom" in (config["paligemma_variant"], config["action_expert_variant"]):
        notes.append("LeRobot has no variant of these sizes and builds no such model: the files are for other readers")
    return notes


def _statistics(root: Path, normalizer: processors.Normalizer, stated: Stated) -> NormStats:
    if stated.norm_stats is not None:
        return NormStats.read(stated.norm_stats)
    if normalizer.stats is None:
        raise CheckpointError(
            f"{root}: expected statistics of {STATE} and {ACTION} in the preprocessor, found none. Give --norm-stats: "
            f"a norm_stats.json, such as that of the data that will be trained on."
        )
    return normalizer.stats


def _normalization(normalizer: processors.Normalizer, stats: NormStats, *, where: str) -> dict[str, Any]:
    section: dict[str, Any] = {"formula": "lerobot"}
    for quantity, feature in (("state", "STATE"), ("actions", "ACTION")):
        mode = normalizer.modes.get(feature, RAW)
        if mode != RAW and mode not in MODES:
            raise CheckpointError(
                f"{where}: {feature}: expected one of {', '.join((*MODES, RAW))}, found {mode}, which this project "
                f"does not have."
            )
        section[quantity] = MODES.get(mode, "mean_std")
        if mode == RAW:
            section[f"raw_{quantity}"] = list(range(getattr(stats, quantity).dims))
    if normalizer.modes.get("VISUAL", RAW) != RAW:
        raise CheckpointError(f"{where}: expected images that are not normalised, found {normalizer.modes['VISUAL']}.")
    return section


def _views(config: Mapping[str, Any], where: str) -> dict[str, str]:
    features = _required(config, "input_features", where)
    columns = [name for name, feature in features.items() if feature["type"] == "VISUAL" and not name.startswith(EMPTY)]
    if not columns:
        raise CheckpointError(f"{where}: expected cameras in input_features, found none. Name them with --view.")
    return dict(zip(short_names(columns), columns, strict=True))


def _config(bundle: Bundle, modes: Mapping[str, str]) -> dict[str, Any]:
    section, config = bundle.policy_config.plain(), bundle.config
    rows, columns = config.transforms.image_size
    state = {"max_state_dim": section["max_state_dim"]} if "max_state_dim" in section else {}
    return {
        "type": section["name"],
        "chunk_size": section["action_horizon"],
        "n_action_steps": section["action_horizon"],
        "num_inference_steps": section["num_steps"],
        "max_action_dim": section["max_action_dim"],
        **state,
        "tokenizer_max_length": config.transforms.max_tokens,
        "image_resolution": [rows, columns],
        "paligemma_variant": variant(section["language"]),
        "action_expert_variant": variant(section["expert"]),
        "dtype": "float32",
        "input_features": {
            **{_image(column): {"type": "VISUAL", "shape": [3, rows, columns]} for column in _columns(bundle)},
            STATE: {"type": "STATE", "shape": [len(config.state_names)]},
        },
        "output_features": {ACTION: {"type": "ACTION", "shape": [len(config.action_names)]}},
        "normalization_mapping": dict(modes),
        **relative.config(bundle.processor.delta, config.action_names),
    }


def _columns(bundle: Bundle) -> list[str]:
    """The columns of the views, in the policy's order."""
    return [bundle.config.columns.views[view] for view in bundle.config.views]


def _image(column: str) -> str:
    return column if column.startswith(IMAGES) else f"{IMAGES}{column.replace('/', '_')}"


def _mode(normalize: Normalize) -> str:
    if normalize.raw.all():
        return RAW
    return next(mode for mode, method in MODES.items() if method == normalize.method)


def _required(config: Mapping[str, Any], key: str, where: str) -> Any:
    if config.get(key) is None:
        raise CheckpointError(f"{where}: expected {key}, found none. Get the file again.")
    return config[key]
