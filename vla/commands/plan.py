"""`vla plan`: what a training of `params.yaml` would take, and whether it fits a GPU, before anything is allocated."""

import argparse
from collections.abc import Mapping
from typing import Any

from vla import presets
from vla.commands.flags import count, share
from vla.config import PARAMS, read_params
from vla.dvc_file import artifact_paths
from vla.planning import gpus
from vla.planning.offered import VOCABULARY, Dimensions, PlannedConfig, offered
from vla.planning.plan import UTILISATION, make_plan
from vla.planning.report import text_of
from vla.training.job import check_split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", metavar="NAME", help="plan params.yaml as 'vla presets apply NAME' would leave it")
    parser.add_argument("--gpu", default="h100", metavar="NAME", help=f"{', '.join(gpus.GPUS)} (default: h100)")
    parser.add_argument("--workers", type=count, metavar="N", help="GPUs (default: execution.workers)")
    parser.add_argument("--micro-batch", type=count, metavar="N", help="default: execution.micro_batch")
    parser.add_argument("--utilisation", type=share, default=UTILISATION, metavar="SHARE", help="of the GPU's peak")
    parser.add_argument("--state-dim", type=count, metavar="N", help="default: the dataset's, else the preset's")
    parser.add_argument("--action-dim", type=count, metavar="N", help="default: the dataset's, else the preset's")
    parser.add_argument(
        "--vocabulary", type=count, metavar="N", help=f"token ids of the tokenizer (default: {VOCABULARY})"
    )


def run(options: argparse.Namespace) -> str:
    """Raises ConfigError for sizes that nothing says and for values that no policy or training takes."""
    gpu = gpus.find(options.gpu)
    params, given, dataset = read_params(PARAMS), dict[str, int](), artifact_paths("download").get("dataset")
    if options.preset:
        preset = presets.read(options.preset)
        params = presets.merged(params, preset.overrides)
        params["policy"] = {**params["policy"], **preset.shapes}
        # The dataset on disk may be another preset's.
        given, dataset = dict(preset.dimensions), None
    given |= {name: value for name in Dimensions.model_fields if (value := getattr(options, name)) is not None}
    cfg = _planned(params, options)
    check_split(cfg.train, workers=cfg.execution.workers)
    interface = offered(cfg, Dimensions.parse(given, where="vla plan"), dataset=dataset)
    plan = make_plan(
        cfg.policy,
        interface,
        cfg.train,
        cfg.execution,
        gpu=gpu,
        utilisation=options.utilisation,
    )
    return text_of(plan, cfg, interface, utilisation=options.utilisation)


def _planned(params: Mapping[str, Any], options: argparse.Namespace) -> PlannedConfig:
    execution = dict(params["execution"])
    for name in ("workers", "micro_batch"):
        if getattr(options, name) is not None:
            execution[name] = getattr(options, name)
    sections = {name: params[name] for name in PlannedConfig.model_fields if name in params}
    return PlannedConfig.parse({**sections, "execution": execution}, where=str(PARAMS))
