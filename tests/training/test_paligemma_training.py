"""A training that begins with a saved PaliGemma and its tokenizer, and what its bundle needs."""

import shutil

import pytest
import torch
from batches import PALIGEMMA
from projects import train_paths
from safetensors.torch import load_file
from transformers import PaliGemmaForConditionalGeneration
from vocabularies import write_bpe

from vla.models import bundle
from vla.models.backbone_paligemma import BackboneConfig, model_config
from vla.policies.paligemma_vla import PaliGemmaVLA
from vla.training import distributed, job, loop
from vla.training.parts import Parts


@pytest.fixture
def source(tmp_path):
    """A folder with a tiny PaliGemma and a tokenizer of its vocabulary."""
    folder = tmp_path / "paligemma"
    torch.manual_seed(0)
    sizes = BackboneConfig.parse(PALIGEMMA["backbone"], where="tests").sizes
    PaliGemmaForConditionalGeneration(model_config(*sizes, image_size=16, vocabulary=300)).save_pretrained(folder)
    write_bpe(folder / "tokenizer.json")
    return folder


@pytest.fixture
def made(make_job, project, source):
    policy = {
        **PALIGEMMA,
        "name": "paligemma_vla",
        "per_action_dim": 4,
        "action_dim": 16,
        "backbone": {"source": str(source), "dtype": "torch.bfloat16"},
        "freeze_language_model": True,
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.1, "targets": ["q_proj", "o_proj"]},
    }
    tokenizer = {"source": str(source)}
    made = make_job(policy=policy, transforms__tokenizer=tokenizer, transforms__max_tokens=20, train__steps=2)
    paths = {key: train_paths(project)[key] for key in ("dataset", "episodes", "norm_stats", "features")}
    return made.model_copy(update={"passport": {"inputs": job.identify(made.cfg, **paths).inputs}})


def test_a_bundle_holds_the_source_s_weights_and_needs_it_no_more(made, source):
    assert loop.train(made, distributed.single("cpu")) == "done"
    expected = load_file(source / "model.safetensors")
    shutil.rmtree(source)
    loaded = bundle.load(made.state_directory.bundle)
    assert isinstance(loaded.policy, PaliGemmaVLA)
    (original,) = [value for name, value in expected.items() if name.endswith("layers.1.self_attn.q_proj.weight")]
    found = loaded.policy.backbone.text_blocks[1].self_attn.q_proj.base_layer.weight
    assert torch.equal(found, original.bfloat16())
    ids, _ = loaded.processor.tokenize("open the drawer")
    assert ids[0] == 0  # <bos>
    assert loaded.spec.prompt == "paligemma"


def test_two_starts_begin_alike(made):
    first, second = Parts.build(made).policy.state_dict(), Parts.build(made).policy.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
