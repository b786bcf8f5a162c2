"""The real pipeline with each policy of the menu, chosen by parameters alone, at a size that learns nothing."""

import pytest
from batches import SETTINGS
from clones import Clone

from vla import registry
from vla.stages import STAGES

pytestmark = pytest.mark.slow
HORIZON, STRIDE, ACTION_DIM = 8, 4, 4
SMALL = {
    "download__sim__tasks": ["drawer-open-v3", "faucet-open-v3"],
    "download__sim__episodes_per_task": 5,
    "download__sim__image_size": [32, 32],
    "transforms__image_size": [32, 32],
    "transforms__max_tokens": 32,
    "execution__launcher": "local",
    "execution__workers": 1,
    "execution__micro_batch": 4,
    "train__steps": 4,
    "train__batch_size": 8,
    "train__validation_samples": 8,
    "train__validation_actions": 4,
    "validate__holdout": 0.2,
    "evaluate__plotted_episodes": 1,
    "rollout__tasks": ["drawer-open-v3"],
    "rollout__episodes": 1,
    "rollout__swapped_episodes": 0,
    "rollout__execute_horizon": STRIDE,
    "rollout__settings": {"image_size": [32, 32], "max_steps": 12},
}
FITTING = {
    "paligemma_vla": {
        "per_action_dim": ACTION_DIM,
        "action_dim": HORIZON * ACTION_DIM,
        "step_stride": STRIDE,
        "num_image_tokens": 16,
    }
}
"""Policy file -> what of its settings depends on the data and on how a robot replans."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    made = Clone(tmp_path_factory.mktemp("clone") / "project")
    made.change(**SMALL)
    made.commit("small")
    return made


@pytest.mark.parametrize("name", [name for name in registry.names("policies") if name != "tiny_vla"])
def test_a_policy_of_the_menu_runs_by_changing_parameters_only(clone, name):
    clone.change(policy={"name": name, **SETTINGS[name], "action_horizon": HORIZON, **FITTING.get(name, {})})
    ran = clone.repro()
    assert ran[-4:] == ["train", "evaluate", "rollout", "register"]
    assert set(ran) <= set(STAGES)
    registration = clone.read("outputs/registration.json")
    assert clone.read("outputs/evaluation.json")["bundle_digest"] == registration["bundle_digest"]
    assert clone.read("outputs/rollout.json")["episodes"] == 1
