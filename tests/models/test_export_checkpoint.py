"""Bundles as checkpoints of openpi and LeRobot, and back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import a_bundle, statistics, with_still
from foreign_checkpoints import (
    EMBEDDING,
    EXPERT_HEAD,
    HEAD,
    golden_weights,
    lerobot_folder,
    openpi_folder,
    stated,
)
from safetensors.torch import load_file, load_model
from torch import nn

from vla.delta import Delta, DeltaRange
from vla.errors import CheckpointError
from vla.models import bundle
from vla.models.bundle import Bundle, BundleConfig
from vla.models.checkpoints import relative
from vla.models.checkpoints.exporting import export
from vla.models.checkpoints.expressed import expressed
from vla.models.checkpoints.importing import import_checkpoint
from vla.normalization import Normalize, NormStats

KINDS = ("pi0", "pi05")
FOLDERS = {"openpi": openpi_folder, "lerobot": lerobot_folder}
NAMED = {"state_names": ("x", "y", "z"), "action_names": ("dx", "gripper")}


def imported(folder: Path, out: Path, **changes) -> Bundle:
    import_checkpoint(folder, stated(**NAMED | changes), out, source={"source": "lab/checkpoint"})
    return bundle.load(out)


def a_pi05(path: Path, *, stats: NormStats | None = None, sampler: str = "euler", **transforms) -> Bundle:
    """A pi0.5 as it is trained here: of the given settings, with the golden weights."""
    made = imported(openpi_folder(path / "source", "pi05"), path / "made")
    plain = made.config.plain()
    plain["transforms"] |= transforms
    plain["policy"]["sampler"] = sampler
    bundle.save(
        path / "trained",
        weights=made.policy.state_dict(),
        config=BundleConfig.parse(plain, where="tests"),
        norm_stats=stats or made.norm_stats,
        tokenize=made.processor.tokenize,
        passport={},
    )
    return bundle.load(path / "trained")


# Round trips.


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_goes_out_and_comes_back_is_the_same_bundle(tmp_path, kind, layout):
    """The digest covers every bit of weights, settings, statistics and tokenizer."""
    first = imported(FOLDERS[layout](tmp_path / "source", kind), tmp_path / "first")
    export(first.path, layout, tmp_path / "exported")
    again = imported(tmp_path / "exported", tmp_path / "again")
    assert again.digest == first.digest


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_has_the_source_s_tensors_but_for_the_one_that_nothing_reads(tmp_path, kind, layout):
    source = FOLDERS[layout](tmp_path / "source", kind)
    imported(source, tmp_path / "bundle")
    export(tmp_path / "bundle", layout, tmp_path / "exported")
    expected, found = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "exported"))
    assert found.keys() == expected.keys()
    unread = EXPERT_HEAD if layout == "openpi" else f"model.{EXPERT_HEAD}"
    assert found[unread].shape == expected[unread].shape
    assert not found[unread].any()
    assert all(torch.equal(found[name], expected[name]) for name in expected if name != unread)


@pytest.mark.parametrize(("here", "there"), [("openpi", "lerobot"), ("lerobot", "openpi")])
def test_the_other_project_s_formula_makes_the_same_map(tmp_path, here, there):
    """A bin of the state is 1/128 wide; the formulas differ by 1e-6 of it at most when statistics make up for it."""
    first = imported(FOLDERS[here](tmp_path / "source", "pi05"), tmp_path / "first")
    export(first.path, there, tmp_path / "exported")
    second = imported(tmp_path / "exported", tmp_path / "second")
    assert second.config.transforms.normalization.formula == there
    assert_equal_maps(first, second)


def assert_equal_maps(first: Bundle, second: Bundle, *, tolerance: float = 2e-7) -> None:
    raw = np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32)
    for quantity, values in (("state", raw), ("actions", raw[:, :2])):
        a, b = (getattr(each.processor, quantity) for each in (first, second))
        np.testing.assert_allclose(a.inverse(values), b.inverse(values), rtol=0, atol=tolerance)
        # A constant dimension is 0 here whatever comes, and its distance from the constant there.
        moving = ~a.degenerate
        np.testing.assert_allclose(
            a.forward(values)[:, moving], b.forward(values)[:, moving], rtol=0, atol=4 * tolerance
        )


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize(
    "section",
    [
        {"state": "quantile", "actions": "min_max"},
        {"state": "mean_std", "actions": "quantile"},
        {"state": "quantile", "actions": "quantile", "raw_state": [1], "raw_actions": [0]},
    ],
    ids=["min_max", "mean_std", "raw"],
)
def test_a_policy_trained_here_means_the_same_there(tmp_path, layout, section):
    trained = a_pi05(tmp_path, normalization=section)
    export(trained.path, layout, tmp_path / "exported")
    assert_equal_maps(trained, imported(tmp_path / "exported", tmp_path / "back"))


@pytest.mark.parametrize("layout", FOLDERS)
def test_a_constant_dimension_is_zero_there_too(tmp_path, layout):
    """Without care its divisor would be 1e-6 or 1e-8, and a sensor's noise would be millions."""
    section = {"state": "quantile", "actions": "quantile"}
    trained = a_pi05(tmp_path, stats=with_still(state=(2,)), normalization=section)
    export(trained.path, layout, tmp_path / "exported")
    back = imported(tmp_path / "exported", tmp_path / "back").processor.state
    normalised = back.forward(np.float32([[0, 0, 0.3], [0, 0, 0.31]]))[:, 2]
    np.testing.assert_allclose(normalised, [0, 0.01], atol=1e-6)


# What strict loading asks for.


def module_with(names: dict[str, torch.Size]) -> nn.Module:
    """A module with parameters of the given names and shapes."""
    root = nn.Module()
    for name, shape in names.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.register_parameter(last, nn.Parameter(torch.full(shape, 7.0)))
    return root


@pytest.mark.parametrize("kind", KINDS)
def test_openpi_s_loader_takes_the_export(tmp_path, kind):
    """It is safetensors' strict `load_model`, into a model whose embedding and output layer are one tensor."""
    imported(openpi_folder(tmp_path / "source", kind), tmp_path / "bundle")
    export(tmp_path / "bundle", "openpi", tmp_path / "exported")
    model = module_with({name: value.shape for name, value in golden_weights(kind).items()})
    paligemma = model.paligemma_with_expert.paligemma
    paligemma.model.language_model.embed_tokens.weight = paligemma.lm_head.weight
    load_model(model, tmp_path / "exported/model.safetensors")
    assert torch.equal(model.state_dict()[EMBEDDING], golden_weights(kind)[EMBEDDING])


@pytest.mark.parametrize("kind", KINDS)
def test_lerobot_s_loader_takes_the_export(tmp_path, kind):
    """It is a strict `load_state_dict`, into a model that has both tensors apart (transformers 5) or tied (4)."""
    imported(lerobot_folder(tmp_path / "source", kind), tmp_path / "bundle")
    export(tmp_path / "bundle", "lerobot", tmp_path / "exported")
    model = module_with({f"model.{name}": value.shape for name, value in golden_weights(kind).items()})
    model.load_state_dict(load_file(tmp_path / "exported/model.safetensors"), strict=True)
    for name in (EMBEDDING, HEAD):
        assert torch.equal(model.state_dict()[f"model.{name}"], golden_weights(kind)[EMBEDDING])


@pytest.mark.parametrize("kind", KINDS)
def test_lerobot_s_processors_follow_its_order(tmp_path, kind):
    """pi0.5's text says the normalised state; pi0 normalises last."""
    imported(lerobot_folder(tmp_path / "source", kind), tmp_path / "bundle")
    export(tmp_path / "bundle", "lerobot", tmp_path / "exported")
    steps = json.loads((tmp_path / "exported/policy_preprocessor.json").read_text())["steps"]
    order = [step["registry_name"] for step in steps]
    text = {"pi0": "pi0_new_line_processor", "pi05": "pi05_prepare_state_tokenizer_processor_step"}[kind]
    assert (order.index("normalizer_processor") < order.index(text)) == (kind == "pi05")
    for step in steps:
        if "state_file" in step:
            assert (
                step["state_file"] == f"policy_preprocessor_step_{steps.index(step)}_normalizer_processor.safetensors"
            )
            found = load_file(tmp_path / "exported" / step["state_file"])
            assert found["observation.state.q99"].tolist() == pytest.approx([0.9] * 3)
            assert found["action.count"].tolist() == [100]


def test_cameras_stay_in_the_policy_s_order(tmp_path):
    """Their tokens stand one behind the other: sorted by name they would be other inputs."""
    views = {"wrist": "observation.images.wrist", "base": "observation.images.base"}
    imported(openpi_folder(tmp_path / "source", "pi05"), tmp_path / "bundle", views=views)
    export(tmp_path / "bundle", "lerobot", tmp_path / "exported")
    back = imported(tmp_path / "exported", tmp_path / "back")
    assert back.config.views == ("wrist", "base")


def test_openpi_finds_its_statistics_below_the_asset_id(tmp_path):
    imported(openpi_folder(tmp_path / "source", "pi05"), tmp_path / "bundle")
    report = export(tmp_path / "bundle", "openpi", tmp_path / "exported")
    values = json.loads((tmp_path / "exported/assets/lab/norm_stats.json").read_text())["norm_stats"]
    assert values["state"]["q01"] == statistics(3).q01.tolist()
    assert "5 actions, 40 tokens, asset id lab" in str(report)


# Relative actions.


def delta(*ranges: tuple[int, int], state: int = 0) -> Delta:
    made = [DeltaRange(actions=item, state=(item[0] + state, item[1] + state)) for item in ranges]
    return Delta.make(made, state_dim=8, action_dim=4)


def test_delta_actions_go_out_and_come_back(tmp_path):
    trained = a_pi05(tmp_path, delta_actions=[{"actions": [0, 1], "state": [0, 1]}])
    export(trained.path, "lerobot", tmp_path / "exported")
    steps = json.loads((tmp_path / "exported/policy_postprocessor.json").read_text())["steps"]
    assert [step["registry_name"] for step in steps][:2] == ["unnormalizer_processor", "absolute_actions_processor"]
    back = imported(tmp_path / "exported", tmp_path / "back")
    assert back.config.transforms.delta_actions == trained.config.transforms.delta_actions


def test_no_difference_is_no_key_which_older_versions_would_refuse():
    assert relative.config(delta(), ["a", "b"]) == {}


def test_differences_that_lerobot_cannot_say_are_refused():
    with pytest.raises(CheckpointError, match=r"found actions \[0\] of state \[3\]"):
        relative.config(delta((0, 1), state=3), ["a", "b", "c", "d"])
    with pytest.raises(CheckpointError, match="is a part of another's"):
        relative.config(delta((0, 1)), ["x_grip", "grip", "y", "z"])


def test_a_sampler_that_the_others_do_not_have_is_said(tmp_path):
    trained = a_pi05(tmp_path, sampler="heun")
    assert "sampled by heun here, and by Euler steps there" in str(export(trained.path, "openpi", tmp_path / "out"))


# What is refused.


def test_other_policies_are_refused(tmp_path):
    a_bundle(tmp_path / "tiny")
    with pytest.raises(CheckpointError, match="expected a bundle of pi0 or pi05, found tiny_vla"):
        export(tmp_path / "tiny", "openpi", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_heads_that_the_others_take_for_granted_are_checked(tmp_path):
    first = imported(openpi_folder(tmp_path / "source", "pi05"), tmp_path / "first")
    plain = first.config.plain()
    for part in ("language", "expert"):
        # The same shapes with 4 heads of twice the size.
        plain["policy"][part] |= {"heads": 4, "head_dim": 32}
    weights = {
        name: torch.cat([value, value]) if name.endswith(("k_proj.weight", "v_proj.weight")) else value
        for name, value in first.policy.state_dict().items()
        if "vision" not in name
    } | {name: value for name, value in first.policy.state_dict().items() if "vision" in name}
    bundle.save(
        tmp_path / "other",
        weights=weights,
        config=BundleConfig.parse(plain, where="tests"),
        norm_stats=first.norm_stats,
        tokenize=first.processor.tokenize,
        passport={},
    )
    with pytest.raises(CheckpointError, match="expected 8 attention heads, which lerobot takes for granted, found 4"):
        export(tmp_path / "other", "lerobot", tmp_path / "out")


def test_a_map_of_a_range_without_width_can_be_said():
    """An empty range by openpi's formula has the divisor 5e-7, which LeRobot's formula reaches with a range of 1e-6."""
    still = with_still(state=(0,)).state
    here = Normalize(still, "quantile", formula="openpi")
    there = Normalize(expressed(still, here, "quantile", "lerobot"), "quantile", formula="lerobot")
    np.testing.assert_allclose(there.divisor, here.divisor, rtol=1e-6)
    np.testing.assert_allclose(there.offset, here.offset, rtol=0, atol=1e-12)
