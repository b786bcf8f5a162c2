"""A training of a policy that begins with somebody else's weights and settings, and reads the state as text."""

import json
from dataclasses import replace

import pytest
import torch
from builders import make_statistics
from forks import POLICIES
from projects import train_paths
from safetensors.torch import load_file
from vocabularies import write_bpe

import vla.policies
from vla.errors import CheckpointError, DataError
from vla.models import bundle
from vla.training import distributed, job, loop
from vla.training.fine_tuning import Origin
from vla.training.job import Job
from vla.training.parts import Parts

WIDTH = 16


@pytest.fixture(autouse=True)
def menu(monkeypatch, tmp_path):
    """The policies that only tests train are on the menu, of a project whose dvc.yaml does not look for their files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vla.policies, "__path__", [*vla.policies.__path__, str(POLICIES)])


@pytest.fixture
def make_padded(make_job, project):
    """Makes jobs of the wide policy as stage train does, with what identifies them in the passport."""

    def make(name: str = "run", **changes) -> Job:
        settings = {
            "policy__name": "padded_vla",
            "policy__width": WIDTH,
            "transforms__max_tokens": 24,
            "train__steps": 2,
        }
        made = make_job(name, **{**settings, **changes})
        paths = {key: train_paths(project)[key] for key in ("dataset", "episodes", "norm_stats", "features")}
        inputs = job.identify(made.cfg, **paths).inputs
        return made.model_copy(update={"passport": {"inputs": inputs}, "origin": job.origin_path(made.cfg)})

    return make


@pytest.fixture
def weights(make_padded, tmp_path):
    """A folder of weights of the toy project's sizes."""
    folder = tmp_path / "weights"
    folder.mkdir()
    policy = Parts.build(make_padded("before", seed=5)).policy
    bundle.write_tensors(folder / "model.safetensors", policy.state_dict())
    (folder / "width.json").write_text(str(WIDTH))
    return folder


def trained(made: Job) -> Job:
    assert loop.train(made, distributed.single("cpu")) == "done"
    return made


def test_a_wide_policy_that_reads_its_state_trains_and_its_bundle_acts(make_padded):
    made = trained(make_padded())
    loaded = bundle.load(made.state_directory.bundle)
    assert (loaded.spec.action_dim, loaded.spec.real_action_dim, loaded.spec.prompt) == (5, 4, "pi05")
    assert loaded.processor.tokenize.prompt == "pi05"
    findings = json.loads(made.state_directory.self_checks.read_text())["findings"]
    assert {item["check"]: item["found"] for item in findings}["padding"] == (
        "an action without weight has no gradient, nor have the rows of a padded dimension"
    )


def test_rows_of_padded_dimensions_learn_only_where_padding_is_supervised(make_padded):
    for supervise_padded in (False, True):
        made = make_padded(f"padded {supervise_padded}", train__supervise_padded=supervise_padded)
        worker = loop.Worker.start(made, distributed.single("cpu"))
        with worker.feed:
            worker._backward(0, worker.feed.batches(0))
        layer = worker.state.policy.action_output()
        assert bool(layer.weight.grad[4].any()) == supervise_padded
        assert layer.weight.grad[:4].any()


def test_a_new_training_begins_with_the_pretrained_weights_and_settings(make_padded, weights):
    parts = Parts.build(make_padded(policy__weights={"source": str(weights)}, policy__width=0))
    expected = load_file(weights / "model.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in parts.policy.state_dict().items())
    assert parts.bundle_config.policy["width"] == WIDTH


def test_a_bundle_needs_no_pretrained_files(make_padded, weights):
    made = trained(make_padded(policy__weights={"source": str(weights)}, policy__width=0))
    for file in weights.iterdir():
        file.unlink()
    assert bundle.load(made.state_directory.bundle).policy_config.width == WIDTH


def test_other_pretrained_weights_are_another_training(make_padded, weights):
    settings = {"policy__weights": {"source": str(weights)}, "policy__width": 0}
    made = make_padded(**settings)
    tensors = load_file(weights / "model.safetensors")
    bundle.write_tensors(weights / "model.safetensors", {name: value + 1 for name, value in tensors.items()})
    other = make_padded("other", **settings)
    assert made.passport["inputs"].keys() == other.passport["inputs"].keys()
    differ = {name for name, digest in made.passport["inputs"].items() if other.passport["inputs"][name] != digest}
    assert differ == {"pretrained"}
    with pytest.raises(DataError, match=r"model\.safetensors: expected the weights as at the start of the training"):
        Parts.build(made)
    assert "pretrained" not in make_padded("random").passport["inputs"]


def test_a_fine_tuning_takes_the_bundle_s_weights_and_not_the_pretrained_ones(make_padded, weights):
    settings = {"policy__weights": {"source": str(weights)}, "policy__width": 0}
    origin = trained(make_padded("origin", **settings)).state_directory.bundle
    made = make_padded("tuned", **settings, train__init_from=str(origin))
    assert made.passport["inputs"].keys() >= {"init_from"}
    assert "pretrained" not in made.passport["inputs"]
    expected = load_file(origin / bundle.WEIGHTS)
    assert all(torch.equal(value, expected[name]) for name, value in Parts.build(made).policy.state_dict().items())


def test_only_what_weights_do_not_depend_on_may_differ_in_fine_tuning(make_padded):
    origin = trained(make_padded("origin")).state_directory.bundle
    read = Origin.read(origin, digest=bundle.verify(origin)["bundle_digest"])
    fewer = read.config.model_copy(update={"action_names": read.config.action_names[:3]})
    read.check(fewer)
    with pytest.raises(CheckpointError, match=r"found another: policy\.width: 16 in the bundle, 24 here\. Change"):
        read.check(fewer.model_copy(update={"policy": {**read.config.policy, "width": 24}}))
    three = replace(read.norm_stats, actions=make_statistics([[0.0] * 3, [1.0] * 3]))
    findings = {item.check: item for item in read.findings(three, (), "words")}
    assert findings["norm stats of actions"].found == "4 dimensions in the bundle, 3 here"


def test_the_bundle_s_tokenizer_wins_over_the_one_of_the_settings_and_that_is_said(make_padded, tmp_path):
    origin = trained(make_padded("origin")).state_directory.bundle
    file = write_bpe(tmp_path / "tokenizer.json")
    made = make_padded("tuned", train__init_from=str(origin), transforms__tokenizer={"source": str(file)})
    parts = Parts.build(made)
    assert parts.tokenize.to_json() == (origin / bundle.TOKENIZER).read_text()
    (finding,) = [item for item in parts.findings if item.check == "tokenizer"]
    assert finding.warning
    assert finding.found == f"the bundle's is used, and not {file} of transforms.tokenizer"
