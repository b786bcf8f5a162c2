"""Training that begins with a bundle's weights, and how long a training is."""

import json
import re
import shutil
import subprocess
from contextlib import nullcontext

import pytest
import torch
from batches import SETTINGS
from bundles import a_bundle
from projects import train_paths, write_params
from safetensors.torch import load_file

from vla.errors import CheckpointError, ConfigError
from vla.models import bundle
from vla.normalization import NormStats
from vla.training import distributed, job, loop
from vla.training.fine_tuning import Origin
from vla.training.job import Job, JobConfig
from vla.training.parts import Parts
from vla.training.self_checks import read_findings


@pytest.fixture
def origin(make_job):
    """The bundle of a finished training, and what it measured."""
    made = make_job("origin")
    assert loop.train(made, distributed.single("cpu")) == "done"
    return made.state_directory.bundle


@pytest.fixture
def make_tuning(make_job, origin):
    """Makes jobs that begin with the bundle."""

    def make(name: str = "tuned", **changes) -> Job:
        made = make_job(name, train__init_from=str(origin), **changes)
        digest = bundle.verify(origin)["bundle_digest"]
        return made.model_copy(update={"passport": {"inputs": {"init_from": digest}}, "origin": origin})

    return make


def measured(made: Job) -> list[float]:
    rows = [json.loads(line)["metrics"] for line in made.state_directory.journal.read_text().splitlines()]
    return [row["validation_loss"] for row in rows if "validation_loss" in row]


def test_a_training_with_almost_no_learning_rate_keeps_the_weights_of_its_bundle(make_tuning, make_job, origin):
    tuned = make_tuning(train__optimizer__lr=1e-12, train__optimizer__final_lr=0.0, train__steps=2)
    loop.train(tuned, distributed.single("cpu"))
    before, after = (load_file(path / bundle.WEIGHTS) for path in (origin, tuned.state_directory.bundle))
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)
    assert measured(tuned)[-1] == pytest.approx(measured(make_job("origin"))[-1], rel=1e-6)


def test_what_is_taken_over_are_the_weights_and_the_tokenizer(make_tuning, origin):
    parts = Parts.build(make_tuning())
    weights = load_file(origin / bundle.WEIGHTS)
    assert all(torch.equal(value, weights[name]) for name, value in parts.policy.state_dict().items())
    assert parts.tokenize.to_json() == (origin / bundle.TOKENIZER).read_text()


def test_new_words_are_a_warning_that_names_them(make_tuning, origin):
    file = origin / bundle.TOKENIZER
    values = json.loads(file.read_text())
    values["model"]["vocab"]["lid"] = values["model"]["vocab"].pop("faucet")
    file.write_text(json.dumps(values))
    _sign_again(origin)
    tuned = make_tuning(train__steps=1)
    loop.train(tuned, distributed.single("cpu"))
    (finding,) = [item for item in read_findings(tuned.state_directory.self_checks) if item.check == "instructions"]
    assert finding.warning
    assert finding.found == "1 words are unknown to the bundle's tokenizer: faucet"


def test_statistics_far_from_the_bundle_s_are_a_warning_that_names_the_dimension(make_tuning, origin):
    findings = {item.check: item for item in Parts.build(make_tuning()).findings}
    assert not any(item.warning for item in findings.values())
    assert "spread 1 times" in findings["norm stats of state"].found
    file = next(origin.glob("assets/*/norm_stats.json"))
    stats = NormStats.read(file)
    stats.actions.mean[2] += 3 * stats.actions.std[2]
    stats.write(file)
    _sign_again(origin)
    findings = {item.check: item for item in Parts.build(make_tuning()).findings}
    assert findings["norm stats of actions"].warning
    assert re.match(r"mean of \S+ 3 deviations from the bundle's", findings["norm stats of actions"].found)
    assert not findings["norm stats of state"].warning


def test_every_difference_to_the_bundle_s_policy_is_named(make_tuning):
    tuned = make_tuning(policy__width=24, transforms__image_size=[32, 32], policy__num_steps=7)
    with pytest.raises(CheckpointError) as caught:
        Parts.build(tuned)
    assert (
        "policy.width: 16 in the bundle, 24 here; transforms.image_size: [16, 16] in the bundle, [32, 32] here"
        in str(caught.value)
    )
    assert "num_steps" not in str(caught.value)


def test_of_another_policy_s_bundle_the_name_says_enough(make_tuning):
    """Before what the two tokenizers and sizes would do to each other."""
    tuned = make_tuning()
    section = {"name": "paligemma_vla", **SETTINGS["paligemma_vla"]}
    tuned = tuned.model_copy(update={"cfg": tuned.cfg.model_copy(update={"policy": section})})
    with pytest.raises(CheckpointError) as caught:
        Parts.build(tuned)
    assert "found another: policy.name: tiny_vla in the bundle, paligemma_vla here. Change" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "free", "size"),
    [
        ("pi0", {"attention": "eager"}, "max_action_dim"),
        ("pi05", {"attention": "eager"}, "max_action_dim"),
        ("paligemma_vla", {}, "window_steps"),
    ],
)
def test_parts_of_a_bundle_that_was_trained_whole_may_be_frozen(tmp_path, name, free, size):
    settings = {**SETTINGS[name], "freeze_vision_tower": False}
    origin = a_bundle(tmp_path, image_size=(16, 16), max_tokens=40, policy=name, settings=settings)
    read = Origin.read(tmp_path, digest=origin.digest)
    free = {**free, "freeze_vision_tower": True, "freeze_language_model": True}
    for changes, names in ((free, None), ({**free, size: 9}, f"found another: policy.{size}: {settings[size]} in")):
        config = read.config.model_copy(update={"policy": {**read.config.policy, **changes}})
        with pytest.raises(CheckpointError, match=names) if names else nullcontext():
            read.check(config)


def test_a_bundle_that_has_changed_since_the_start_is_refused(make_tuning, origin):
    tuned = make_tuning()
    (origin / bundle.TOKENIZER).write_text((origin / bundle.TOKENIZER).read_text() + " ")
    _sign_again(origin)
    with pytest.raises(CheckpointError, match="as at the start of the training"):
        Parts.build(tuned)


def test_the_bundle_s_content_is_part_of_a_training_s_identity(project, origin, tmp_path):
    places = {name: train_paths(project)[name] for name in ("dataset", "episodes", "norm_stats", "features")}
    fingerprints = []
    for changes in ({}, {"train.init_from": str(origin)}, {"train.init_from": str(origin)}):
        write_params(project, changes)
        fingerprints.append(job.identify(JobConfig.load(project / "params.yaml"), **places).fingerprint)
        (origin / bundle.TOKENIZER).write_text((origin / bundle.TOKENIZER).read_text() + " ")
        _sign_again(origin)
    assert len(set(fingerprints)) == 3
    write_params(project, {"train.init_from": str(tmp_path / "nowhere")})
    with pytest.raises(CheckpointError, match=r"nowhere: expected a bundle with model\.safetensors, found none"):
        job.identify(JobConfig.load(project / "params.yaml"), **places)


def test_a_relative_path_is_one_of_the_project_wherever_the_stage_runs(project, origin, monkeypatch):
    subprocess.run(["git", "init", "-q", project], check=True)
    shutil.copytree(origin, project / "kept" / "base")
    write_params(project, {"train.init_from": "kept/base"})
    cfg = JobConfig.load(project / "params.yaml")
    monkeypatch.chdir(project / "data")
    assert job.origin_path(cfg) == project / "kept" / "base"


def test_epochs_are_passes_of_whole_batches_over_the_train_split(make_job):
    made = make_job("epochs", train__steps=None, train__epochs=3)
    per_epoch = Parts.build(made).training.steps_per_epoch
    assert per_epoch > 1
    assert made.steps == 3 * per_epoch
    assert loop.train(made, distributed.single("cpu")) == "done"
    assert made.state_directory.summary()["steps"] == made.steps


@pytest.mark.parametrize(("steps", "epochs"), [(12, 2), (None, None)])
def test_a_training_s_length_is_said_exactly_once(project, steps, epochs):
    write_params(project, {"train.steps": steps, "train.epochs": epochs})
    with pytest.raises(ConfigError, match="expected a number for one of steps and epochs and null for the other"):
        JobConfig.load(project / "params.yaml")


def _sign_again(path) -> None:
    """Make a changed bundle one that is whole."""
    passport = json.loads((path / bundle.PASSPORT).read_text())
    (path / bundle.PASSPORT).write_text(json.dumps({**passport, "bundle_digest": bundle.digest_of(path)}))
