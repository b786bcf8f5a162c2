"""The whole pipeline on real recordings of four robots, chosen by parameters alone."""

from pathlib import Path
from typing import Any

import pytest
from clones import Clone
from projects import REPOSITORY

from vla.stages import STAGES

pytestmark = pytest.mark.slow
SHARED = REPOSITORY.parent / "shared/data"
SHORT = {
    "transforms__image_size": [32, 32],
    "transforms__max_tokens": 16,
    "policy__width": 32,
    "policy__encoder_layers": 1,
    "policy__expert_layers": 1,
    "execution__launcher": "local",
    "execution__workers": 1,
    "execution__micro_batch": 8,
    "train__steps": 8,
    "train__batch_size": 8,
    "train__validation_samples": 8,
    "train__validation_actions": 8,
    "validate__holdout": 0.2,
    "evaluate__plotted_episodes": 1,
    "rollout__environment": "none",
    "rollout__tasks": [],
}
"""A training too short to learn anything, and no environment to try it in."""

STEPWISE = {
    "data__format": "stepwise",
    "data__columns": {
        "state": "state",
        "actions": "action",
        "views": {"main": "image_1", "wrist": "image_2"},
        "instruction": "prompt",
        "fps": 5,
    },
}
DATASETS: dict[str, dict[str, Any]] = {
    "bridge_v21_images": {
        "data__format": "lerobot_v21",
        "data__columns": {
            "state": "observation.state",
            "actions": "action",
            "views": {"over": "observation.images.image_0", "side": "observation.images.image_1"},
        },
    },
    "bridge_stepwise": STEPWISE,
    "gr1_v20_video": {
        "data__format": "lerobot_v20",
        "data__columns": {
            "state": ["observation.state[0:13]", "observation.state[22:35]"],  # arms and hands
            "actions": ["action[0:13]", "action[22:35]"],
            "views": {"ego": "observation.images.ego_view"},
            "instruction": "annotation.human.action.task_description",
        },
        "train__order": "blocks",
    },
    "g1_v21_video": {
        "data__format": "lerobot_v21",
        "data__select": {"present": True},
        "data__columns": {
            "state": "observation.state",
            "actions": "action",
            "views": {"high": "observation.images.cam_high"},
        },
        "transforms__delta_actions": [{"actions": [0, 14], "state": [0, 14]}],
        "norm_stats__weighting": "chunks",
    },
}
EPISODES = {"bridge_v21_images": 25, "bridge_stepwise": 25, "gr1_v20_video": 5, "g1_v21_video": 6}


@pytest.mark.parametrize("name", DATASETS)
def test_the_pipeline_runs_on_a_dataset_by_changing_parameters_only(name, tmp_path):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not here")
    clone = Clone(tmp_path / "project")
    source = {"source": "local", "local": {"path": str(SHARED / name)}}
    clone.change(**{**SHORT, "data__name": name, "download": source, **DATASETS[name]})
    assert clone.repro() == list(STAGES)
    validation = clone.read("data/validation.json")
    assert validation["status"] == "passed"
    assert validation["episodes"]["total"] == EPISODES[name]
    assert clone.read("data/norm_stats.json")["provenance"]["data_name"] == name
    assert clone.read("outputs/evaluation.json")["episodes"] == validation["episodes"]["validation"]
    assert clone.read("outputs/registration.json")["bundle_digest"]
    assert not list((clone.root / "data/dataset").rglob("*.parquet")), "a dataset in place is not copied"
    assert Path(clone.read("data/dataset/manifest.json")["root"]) == (SHARED / name).resolve()
