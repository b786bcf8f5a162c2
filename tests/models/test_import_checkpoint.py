"""Checkpoints of openpi and LeRobot as bundles: what is taken over, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import a_bundle, statistics
from foreign_checkpoints import (
    EMBEDDING,
    EXPERT_HEAD,
    HEAD,
    change_weights,
    lerobot_folder,
    openpi_folder,
    stated,
)
from golden_pi import CAMERAS, SIZES, golden_policy
from safetensors.torch import load_file, save_file

from vla.errors import CheckpointError, ConfigError, UserError
from vla.models import bundle, inference
from vla.models.checkpoints import tensors
from vla.models.checkpoints.importing import Report, import_checkpoint
from vla.normalization import NormStats
from vla.terms import Sensing

KINDS = ("pi0", "pi05")
FOLDERS = {"openpi": openpi_folder, "lerobot": lerobot_folder}
QUERY = "paligemma_with_expert.gemma_expert.model.layers.1.self_attn.q_proj.weight"


def imported(folder: Path, **changes) -> Report:
    return import_checkpoint(folder, stated(**changes), folder.parent / "bundle", source={"source": "lab/checkpoint"})


def refusal(folder: Path, kind: type[UserError] = CheckpointError, **changes) -> str:
    """The message, after a look that nothing was written."""
    with pytest.raises(kind) as error:
        imported(folder, **changes)
    assert not (folder.parent / "bundle").exists()
    return str(error.value)


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def change_step(folder: Path, processor: str, **changes) -> None:
    path = folder / f"policy_{processor}processor.json"
    values = json.loads(path.read_text())
    values["steps"][-1]["config"] |= changes
    path.write_text(json.dumps(values))


# What is taken over.


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_sizes_are_those_of_the_reference(tmp_path, kind, layout):
    report = imported(FOLDERS[layout](tmp_path / "source", kind))
    loaded = bundle.load(tmp_path / "bundle")
    expected = golden_policy(kind).state_dict()
    assert loaded.policy.state_dict().keys() == expected.keys()
    for name, value in loaded.policy.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert loaded.config.policy.items() >= {"name": kind, "action_horizon": 5, **SIZES}.items()
    assert loaded.config.transforms.image_size == (56, 56)
    assert loaded.config.views == CAMERAS
    assert (report.weights.layout, report.weights.kind) == (layout, kind)
    assert sum(report.weights.parts().values()) == sum(value.numel() for value in expected.values())


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_policy_acts_in_the_units_of_its_statistics(tmp_path, kind, layout):
    imported(FOLDERS[layout](tmp_path / "source", kind))
    loaded = bundle.load(tmp_path / "bundle")
    rng = np.random.default_rng(0)
    images = {view: rng.integers(0, 256, (56, 56, 3), dtype=np.uint8) for view in CAMERAS}
    sensed = Sensing(images, np.zeros(3, dtype=np.float32), 0.0)
    chunk = inference.predict_alone(loaded, [sensed], ["open the drawer"], seed=0)
    assert chunk.shape == (1, 5, 2)
    assert np.isfinite(chunk).all()


def test_what_lerobot_s_config_says_is_kept(tmp_path):
    imported(lerobot_folder(tmp_path / "source", "pi05"), max_tokens=None, state_names=("x", "y", "z"))
    config = bundle.load(tmp_path / "bundle").config
    assert (config.policy["num_steps"], config.transforms.max_tokens) == (4, 12)
    assert config.action_names == ("dx", "gripper")
    assert config.state_names == ("x", "y", "z")
    assert config.columns.views["left_wrist_0_rgb"] == "observation.images.left_wrist_0_rgb"


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_used_by_the_formula_of_their_project(tmp_path, kind):
    imported(openpi_folder(tmp_path / "source", kind))
    processor = bundle.load(tmp_path / "bundle").processor
    # Dimension 1 has mean 0.1, deviation 0.5, and 98 % of its values in [-0.9, 0.9].
    expected = {"pi0": (0.5 - 0.1) / (0.5 + 1e-6), "pi05": (0.5 + 0.9) / (1.8 + 1e-6) * 2 - 1}[kind]
    assert processor.state.forward(np.float32([[0, 0.5, 0]]))[0, 1] == np.float32(expected)


@pytest.mark.parametrize(
    ("mode", "method", "expected"),
    [("QUANTILES", "quantile", 0.5 / 0.9), ("MIN_MAX", "min_max", 0.5), ("MEAN_STD", "mean_std", (0.5 - 0.1) / 0.5)],
)
def test_lerobot_s_modes_are_our_methods(tmp_path, mode, method, expected):
    imported(lerobot_folder(tmp_path / "source", "pi0", mode=mode))
    processor = bundle.load(tmp_path / "bundle").processor
    assert processor.actions.method == method
    assert processor.actions.forward(np.float32([[0, 0.5]]))[0, 1] == pytest.approx(expected, rel=1e-6)


def test_what_lerobot_does_not_normalise_stays_raw(tmp_path):
    imported(lerobot_folder(tmp_path / "source", "pi0", mode="IDENTITY"))
    processor = bundle.load(tmp_path / "bundle").processor
    assert processor.state.forward(np.float32([[3, 4, 5]])).tolist() == [[3, 4, 5]]


def test_relative_actions_of_lerobot_are_delta_actions(tmp_path):
    names = ["x", "y", "Left_Gripper", "z"]
    features = {"action": {"type": "ACTION", "shape": [4]}}
    folder = lerobot_folder(
        tmp_path / "source",
        "pi05",
        use_relative_actions=True,
        relative_exclude_joints=["gripper"],
        action_feature_names=names,
        output_features=features,
    )
    NormStats(statistics(4), statistics(4)).write(tmp_path / "norm_stats.json")
    imported(folder, norm_stats=tmp_path / "norm_stats.json")
    delta = bundle.load(tmp_path / "bundle").processor.delta
    assert delta.actions_K.tolist() == delta.state_K.tolist() == [0, 1, 3]


def test_statistics_that_were_filled_up_are_cut_to_the_named_dimensions(tmp_path):
    folder = openpi_folder(tmp_path / "source", "pi05")
    NormStats(statistics(8), statistics(8)).write(folder / "assets/lab/robot/norm_stats.json")
    imported(folder, state_names=("a", "b", "c"), action_names=("d", "e"), delta_actions=(0, 1))
    loaded = bundle.load(tmp_path / "bundle")
    assert (loaded.norm_stats.state.dims, loaded.norm_stats.actions.dims) == (3, 2)
    assert loaded.spec.padded_action_dims == 6
    assert loaded.processor.delta.actions_K.tolist() == [0]


def test_narrow_weights_become_float32_and_the_report_says_so(tmp_path):
    folder = openpi_folder(tmp_path / "source", "pi05")
    narrow = {}

    def halve(weights):
        narrow.update({name: value.bfloat16() for name, value in weights.items()})
        weights.update(narrow)

    change_weights(folder, halve)
    report = imported(folder)
    weights = bundle.load(tmp_path / "bundle").policy.state_dict()
    assert torch.equal(weights["expert.layers.1.self_attn.q_proj.weight"], narrow[QUERY].float())
    assert f"made float32 of {len(weights)} tensors of bfloat16" in str(report)


def test_a_pickle_is_read_for_its_tensors(tmp_path):
    folder = openpi_folder(tmp_path / "source", "pi0")
    torch.save(load_file(folder / "model.safetensors"), folder / "model.pt")
    (folder / "model.safetensors").unlink()
    imported(folder)
    expected = golden_policy("pi0").state_dict()
    assert torch.equal(bundle.load(tmp_path / "bundle").policy.state_dict()["project.bias"], expected["project.bias"])


def test_newer_transformers_names_of_the_vision_tower_are_known(tmp_path):
    folder = lerobot_folder(tmp_path / "source", "pi05")

    def flatten(weights):
        for name in [name for name in weights if ".vision_model." in name]:
            weights[name.replace(".vision_model.", ".")] = weights.pop(name)

    change_weights(folder, flatten)
    imported(folder)


# The tied embedding and what no action depends on.


def test_an_output_layer_that_has_drifted_from_the_embedding_is_left_out(tmp_path):
    folder = lerobot_folder(tmp_path / "source", "pi05")
    change_weights(folder, lambda weights: weights[f"model.{HEAD}"].add_(1))
    report = imported(folder)
    embedding = golden_policy("pi05").state_dict()["language.embed_tokens.weight"]
    loaded = bundle.load(tmp_path / "bundle").policy.state_dict()
    assert torch.equal(loaded["language.embed_tokens.weight"], embedding)
    assert f"left out {HEAD}: other than the embedding" in str(report)


def test_files_without_the_unused_output_layers_are_complete(tmp_path):
    folder = lerobot_folder(tmp_path / "source", "pi05")

    def drop(weights):
        del weights[f"model.{HEAD}"], weights[f"model.{EXPERT_HEAD}"]

    change_weights(folder, drop)
    assert imported(folder).notes == ()


def test_an_embedding_under_neither_name_is_missing(tmp_path):
    folder = openpi_folder(tmp_path / "source", "pi05")
    change_weights(folder, lambda weights: weights.pop(HEAD))
    assert EMBEDDING in refusal(folder)


# What is refused.


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda weights: weights.pop(QUERY), f"missing {QUERY}"),
        (lambda weights: weights.update({"value_head.weight": torch.zeros(1)}), "unexpected value_head.weight"),
        (
            lambda weights: weights.update({QUERY: torch.zeros(128, 31)}),
            f"{QUERY} has shape [128, 31] instead of [128, 32]",
        ),
        (lambda weights: weights.update({f"model.{QUERY}": torch.zeros(1)}), "found 1 under two names"),
        (lambda weights: weights.update({QUERY: torch.zeros(128, 32, dtype=torch.int64)}), "found int64"),
        (lambda weights: weights.pop("time_mlp_in.weight"), "found neither"),
    ],
)
def test_weights_that_do_not_fit_are_named_as_in_the_file(tmp_path, change, expected):
    folder = openpi_folder(tmp_path / "source", "pi05")
    change_weights(folder, change)
    assert expected in refusal(folder)


def test_a_file_that_was_cut_short_is_damaged(tmp_path):
    folder = openpi_folder(tmp_path / "source", "pi05")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert "found a damaged file" in refusal(folder)


class Harmful:
    """What a pickle may do when it is read without care."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code of the file was run')",))


@pytest.mark.parametrize("content", [Harmful(), {"weights": Harmful()}])
def test_a_pickle_of_other_things_is_refused_unread(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="expected tensors, found a damaged file"):
        tensors.read(tmp_path / "model.pt")


def test_a_pickle_of_a_whole_training_state_is_no_mapping_of_tensors(tmp_path):
    torch.save({"model": {"weight": torch.zeros(1)}, "step": 3}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="expected a mapping from names to tensors"):
        tensors.read(tmp_path / "model.pt")


def test_a_folder_without_weights_says_what_it_has(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/README.md").write_text("")
    assert "found README.md" in refusal(tmp_path / "source")


def test_a_bundle_needs_no_import(tmp_path):
    a_bundle(tmp_path / "policy")
    assert "train.init_from" in refusal(tmp_path / "policy")


def test_other_policies_of_lerobot_are_refused_by_name(tmp_path):
    folder = lerobot_folder(tmp_path / "source", "pi05")
    change_config(folder, type="smolvla")
    assert "found 'smolvla'" in refusal(folder)
    change_config(folder, type="pi0")
    assert "expected the type pi05, of which the weights are, found 'pi0'" in refusal(folder)


def test_a_horizon_that_no_file_says_must_be_given(tmp_path):
    folder = openpi_folder(tmp_path / "source", "pi05")
    (folder / "config.json").unlink()
    assert "Give --action-horizon" in refusal(folder)
    assert imported(folder, action_horizon=7).config.policy["action_horizon"] == 7


def test_a_horizon_other_than_the_file_s_is_refused(tmp_path):
    folder = openpi_folder(tmp_path / "source", "pi05")
    assert "expected --action-horizon 5, as its own configuration says, found 7" in refusal(folder, action_horizon=7)


def test_statistics_of_several_robots_must_be_chosen_from(tmp_path):
    folder = openpi_folder(tmp_path / "source", "pi05")
    other = folder / "assets/lab/other/norm_stats.json"
    other.parent.mkdir()
    shutil.copyfile(folder / "assets/lab/robot/norm_stats.json", other)
    assert "found assets/lab/other, assets/lab/robot" in refusal(folder)
    imported(folder, norm_stats=other)


def test_a_base_model_without_statistics_takes_those_of_the_new_data(tmp_path):
    folder = lerobot_folder(tmp_path / "source", "pi05", action_feature_names=None)
    for processor in ("pre", "post"):
        path = folder / f"policy_{processor}processor.json"
        values = json.loads(path.read_text())
        del values["steps"][-1]["state_file"]
        path.write_text(json.dumps(values))
    assert "Give --norm-stats" in refusal(folder)
    NormStats(statistics(4), statistics(5), {"action_names": list("abcde")}).write(tmp_path / "norm_stats.json")
    report = imported(folder, norm_stats=tmp_path / "norm_stats.json")
    assert report.config.action_names == tuple("abcde")


@pytest.mark.parametrize(
    ("processor", "change", "expected"),
    [
        ("pre", {"eps": 1e-5}, "expected eps 1e-08"),
        ("pre", {"norm_map": {"STATE": "QUANTILE10"}}, "found QUANTILE10"),
        ("pre", {"norm_map": {"VISUAL": "MEAN_STD"}}, "expected images that are not normalised, found MEAN_STD"),
    ],
)
def test_a_normalisation_that_we_do_not_have_is_refused(tmp_path, processor, change, expected):
    folder = lerobot_folder(tmp_path / "source", "pi05")
    change_step(folder, processor, **change)
    assert expected in refusal(folder)


def test_processors_that_disagree_are_of_two_checkpoints(tmp_path):
    folder = lerobot_folder(tmp_path / "source", "pi05")
    path = folder / "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
    save_file(load_file(path) | {"action.q99": torch.tensor([5.0, 5.0])}, path)
    assert "expected equal statistics of action in both processors" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "kind", "expected"),
    [
        ({"vision_heads": None}, CheckpointError, "Give --vision-heads"),
        ({"state_names": tuple("abcd")}, ConfigError, "--state-names: expected at most 3 names"),
        ({"state": "observation.state[0:2]"}, ConfigError, "--state: expected the name of a column"),
        ({"tokenizer": Path("nowhere/tokenizer.json")}, CheckpointError, "Give --tokenizer"),
    ],
)
def test_what_a_person_states_is_checked(tmp_path, changes, kind, expected):
    assert expected in refusal(openpi_folder(tmp_path / "source", "pi05"), kind, **changes)
