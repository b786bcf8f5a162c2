"""What a bundle says about itself, and which settings it refuses."""

import pytest
import torch
from batches import INTERFACES, SETTINGS, fake_batch
from bundles import a_bundle, with_still
from torch import nn

from vla.config import Config
from vla.data.sources import DataConfig
from vla.errors import ConfigError
from vla.models import bundle
from vla.models.bundle import BundleConfig
from vla.models.policy import PolicyConfig, build_policy


def test_dimensions_that_never_moved_are_named(tmp_path):
    assert a_bundle(tmp_path / "moving").degenerate == {"state": [], "actions": []}
    still = a_bundle(tmp_path / "still", norm_stats=with_still(state=(0, 2), actions=(1,)))
    assert still.degenerate == {"state": ["x", "z"], "actions": ["dy"]}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_bundle_answers_as_what_was_saved_and_no_weight_is_drawn_before_it_is_read(tmp_path, name):
    size = INTERFACES[name].image_size if name in INTERFACES else (16, 32)
    made = a_bundle(tmp_path, image_size=size, max_tokens=40, policy=name, settings=SETTINGS[name])
    module, cfg = bundle.parse_policy(made.config.policy, where="tests")
    saved, _ = build_policy(module, cfg, made.spec)
    assert any(part.weight.any() for part in saved.modules() if isinstance(part, nn.Linear))
    empty = bundle.build_empty(module, cfg, made.spec)
    assert not any(part.weight.any() for part in empty.modules() if isinstance(part, nn.Linear))
    bundle.load_weights(saved, tmp_path / bundle.WEIGHTS)
    batch = fake_batch(made.spec, 2)
    assert torch.equal(made.policy(batch).error_BPHA, saved.eval()(batch).error_BPHA)


def refusal(model: type[Config], **values: object) -> str:
    """Why these values are refused, with all others of the section missing."""
    with pytest.raises(ConfigError) as caught:
        model.parse(values, where="test")
    return str(caught.value)


@pytest.mark.parametrize("name", ["../../../escaped", "a/b", "/etc", "a\\b", "..", ".hidden", "", "new\nline", "end\n"])
@pytest.mark.parametrize(("model", "field"), [(BundleConfig, "data_name"), (DataConfig, "name")])
def test_a_dataset_name_that_is_no_file_name_is_refused(model, field, name):
    assert f"test: {field}: string should match pattern" in refusal(model, **{field: name})


@pytest.mark.parametrize("name", ["toy", "metaworld-easy-4", "pusht_v1.2", "-"])
@pytest.mark.parametrize(("model", "field"), [(BundleConfig, "data_name"), (DataConfig, "name")])
def test_a_dataset_name_that_is_a_file_name_is_accepted(model, field, name):
    assert f"test: {field}:" not in refusal(model, **{field: name})


@pytest.mark.parametrize("field", ["action_horizon", "num_steps"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_policy_predicts_and_samples_at_least_one_step(field, value):
    values = {"name": "tiny_vla", "action_horizon": 4, "num_steps": 2, field: value}
    assert f"test: {field}: input should be greater than 0" in refusal(PolicyConfig, **values)


def test_a_folder_that_takes_no_weights_is_an_error_of_the_place(tmp_path):
    with pytest.raises(OSError, match=r"No such file or directory: '.*absent/w.safetensors'"):
        bundle.write_tensors(tmp_path / "absent" / "w.safetensors", {"w": torch.zeros(1)})
