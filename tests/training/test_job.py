"""What makes a training another one, and the tokenizer that its settings name."""

from dataclasses import replace

import numpy as np
import pytest
from projects import a_project, train_paths, write_params
from vocabularies import BOS, a_bpe, write_bpe

from vla.errors import DataError
from vla.models import bundle
from vla.tracking import passport
from vla.training import distributed, job, loop
from vla.training.job import Job, JobConfig
from vla.training.parts import Parts

INPUTS = ("dataset", "episodes", "norm_stats")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return a_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def tokenizer(tmp_path):
    """A tokenizer of somebody else."""
    return write_bpe(tmp_path / "tokenizer.json")


def configured(project, tokenizer) -> JobConfig:
    write_params(project, {"transforms.tokenizer": tokenizer, "transforms.max_tokens": 12, "train.steps": 2})
    return JobConfig.load(project / "params.yaml")


def identified(project, cfg):
    paths = train_paths(project)
    return job.identify(cfg, **{key: paths[key] for key in (*INPUTS, "features")})


def a_job(project, cfg, tmp_path) -> Job:
    paths, identity = train_paths(project), identified(project, cfg)
    papers = passport.of_training(cfg.tracked(), identity.inputs, episodes=paths["episodes"], code=identity.code)
    (tmp_path / "state").mkdir()
    return Job(
        cfg=cfg,
        **{key: paths[key] for key in INPUTS},
        state=tmp_path / "state",
        frames=tmp_path / "frames",
        code=identity.code,
        passport=papers,
    )


def test_a_changed_tokenizer_file_is_another_training(project, tokenizer):
    cfg = configured(project, {"source": str(tokenizer)})
    before, again = identified(project, cfg), identified(project, cfg)
    assert before.fingerprint == again.fingerprint
    write_bpe(tokenizer, special=(BOS, "<other>", "<pad>"))
    after = identified(project, cfg)
    assert after.params == before.params
    assert after.fingerprint != before.fingerprint
    assert replace(after, inputs=before.inputs).fingerprint == before.fingerprint


def test_words_of_the_data_are_no_input_of_their_own(project):
    assert "tokenizer" not in identified(project, configured(project, "words")).inputs


def test_a_bundle_carries_the_tokenizer_that_it_was_trained_with(project, tokenizer, tmp_path):
    made = a_job(project, configured(project, {"source": str(tokenizer)}), tmp_path)
    expected = a_bpe().encode("open the drawer").ids
    assert loop.train(made, distributed.single("cpu")) == "done"
    tokenizer.unlink()
    loaded = bundle.load(made.state_directory.bundle)
    ids, is_pad = loaded.processor.tokenize("open the drawer")
    assert ids.tolist() == expected + [1] * (12 - len(expected))
    assert is_pad.sum() == 12 - len(expected)
    assert loaded.policy.embed_token.num_embeddings == 270
    assert loaded.passport["inputs"]["tokenizer"] == made.passport["inputs"]["tokenizer"]


def test_a_worker_refuses_a_tokenizer_that_changed_after_the_start(project, tokenizer, tmp_path):
    made = a_job(project, configured(project, {"source": str(tokenizer)}), tmp_path)
    assert np.array_equal(Parts.build(made).tokenize("open")[0][:1], [0])
    write_bpe(tokenizer, special=(BOS, "<other>", "<pad>"))
    with pytest.raises(
        DataError, match=r"tokenizer\.json: expected the tokenizer as at the start of the training, [0-9a-f]{16}, fou"
    ):
        Parts.build(made)
