"""PaliGemma as a backbone: what it computes, what it trains, and how a source's weights come in."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PaliGemmaForConditionalGeneration, PaliGemmaModel

from vla.errors import CheckpointError, ConfigError
from vla.models.backbone_lora import LoraConfig, add_lora
from vla.models.backbone_paligemma import BackboneConfig, PaliGemmaBackbone, model_config
from vla.models.backbone_paligemma_weights import find_weights, load_weights, resolved

VISION = {"width": 16, "depth": 2, "mlp_dim": 24, "heads": 2, "patch_size": 8}
TEXT = {
    "family": "gemma",
    "width": 24,
    "depth": 3,
    "mlp_dim": 32,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "vocabulary": 11,
    "query_scale": 6,
}
FAMILIES = pytest.mark.parametrize("family", ["gemma", "gemma2"])
IMAGE_TOKEN = 10


def a_config(*, text=None, **changes) -> BackboneConfig:
    return BackboneConfig.parse(
        {"vision": VISION, "text": {**TEXT, **(text or {})}, "dtype": "float32", **changes}, where="tests"
    )


def a_backbone(cfg: BackboneConfig | None = None, *, seed: int = 0) -> PaliGemmaBackbone:
    """A backbone for images of 16 x 16 pixels, 4 tokens each, with random norms, which begin as ones."""
    torch.manual_seed(seed)
    backbone = PaliGemmaBackbone(cfg or a_config(), image_size=16, vocabulary=5)
    for value in backbone.parameters():
        if value.ndim == 1:
            torch.nn.init.normal_(value, std=0.2)
    return backbone.eval()


def inputs():
    """Two samples of two views and three tokens, of which the second sample's last is padding."""
    images = torch.randint(0, 256, (2, 2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[2, 5, 7], [2, 9, 0]])
    return images, torch.zeros(2, 2, dtype=torch.bool), tokens, tokens == 0


def save_source(folder, *, family="gemma", seed=0):
    """A random PaliGemma as transformers saves it, and its own base model."""
    torch.manual_seed(seed)
    cfg = a_config(text={"family": family})
    model = PaliGemmaForConditionalGeneration(model_config(*cfg.sizes, image_size=16, vocabulary=11))
    model.save_pretrained(folder)
    return model.model


def from_source(folder, **changes):
    cfg = resolved(BackboneConfig.parse({"source": str(folder), "dtype": "float32", **changes}, where="tests"))
    return cfg, a_backbone(cfg, seed=1)


@FAMILIES
def test_hidden_states_are_those_of_transformers_own_forward_pass(family):
    """Text embeddings are scaled once, image tokens never, and all tokens see all valid ones."""
    backbone = a_backbone(a_config(text={"family": family}))
    images, image_is_pad, tokens, token_is_pad = inputs()
    hidden, is_pad = backbone(images, image_is_pad, tokens, token_is_pad)
    model = backbone.model
    model.config.image_token_index = IMAGE_TOKEN
    ids = torch.cat([torch.full((2, 8), IMAGE_TOKEN), tokens], dim=1)
    expected = model(
        input_ids=ids,
        pixel_values=(images.float() / 127.5 - 1).flatten(0, 1),
        attention_mask=(~is_pad).long(),
        token_type_ids=torch.zeros_like(ids),
    ).last_hidden_state
    assert is_pad.tolist() == [[False] * 11, [False] * 10 + [True]]
    torch.testing.assert_close(hidden[~is_pad], expected[~is_pad], atol=1e-5, rtol=1e-5)


def test_the_embedding_itself_multiplies_by_the_root_of_the_width():
    """Before transformers 5.4 the caller had to."""
    embed = a_backbone().model.language_model.embed_tokens
    torch.testing.assert_close(embed(torch.tensor([3])), embed.weight[3:4] * 24**0.5)


@FAMILIES
def test_an_absent_camera_is_not_seen(family):
    backbone = a_backbone(a_config(text={"family": family}))
    images, absent, tokens, token_is_pad = inputs()
    absent[0, 1] = True
    before, is_pad = backbone(images, absent, tokens, token_is_pad)
    images[0, 1] = 255 - images[0, 1]
    after, _ = backbone(images, absent, tokens, token_is_pad)
    assert is_pad[0].tolist() == [False] * 4 + [True] * 4 + [False] * 3
    assert torch.equal(before[~is_pad], after[~is_pad])


def test_a_sample_without_a_camera_is_as_if_its_tokens_were_not_there():
    """Positions are counted over the tokens that are seen."""
    backbone = a_backbone()
    images, absent, tokens, token_is_pad = inputs()
    absent[:, 1] = True
    masked, is_pad = backbone(images, absent, tokens, token_is_pad)
    alone, alone_is_pad = backbone(images[:, :1], absent[:, :1], tokens, token_is_pad)
    torch.testing.assert_close(masked[~is_pad], alone[~alone_is_pad], atol=1e-5, rtol=1e-5)


def test_a_feature_layer_is_the_hidden_state_of_that_index_and_nothing_lies_above_it():
    whole, cut = a_backbone(), a_backbone(a_config(feature_layer=2))
    own = cut.model.state_dict()
    cut.model.load_state_dict({name: value for name, value in whole.model.state_dict().items() if name in own})
    assert len(cut.text_blocks) == 2
    assert not [name for name in own if name.startswith("language_model.norm")]
    found = []
    whole.text_blocks[2].register_forward_pre_hook(lambda _layer, given: found.append(given[0]))
    whole(*inputs())
    hidden, is_pad = cut(*inputs())
    assert torch.equal(hidden[~is_pad], found[0][~is_pad])


def test_every_weight_of_a_cut_backbone_takes_part():
    backbone = a_backbone(a_config(feature_layer=1))
    backbone(*inputs())[0].square().sum().backward()
    assert [name for name, value in backbone.named_parameters() if value.grad is None] == []


def test_frozen_layers_in_bfloat16_stand_below_a_trained_one_in_float32():
    exact, mixed = a_backbone(), a_backbone()
    mixed.freeze(vision=True, language=True, last_layers=1)
    mixed.cast_frozen("bfloat16")
    types = {name: str(value.dtype) for name, value in mixed.model.named_parameters()}
    assert {types[name] for name in types if name.startswith(("language_model.layers.2", "language_model.norm"))} == {
        "torch.float32"
    }
    assert {types[name] for name in types if name.startswith(("vision", "language_model.layers.1"))} == {
        "torch.bfloat16"
    }
    hidden, is_pad = mixed(*inputs())
    torch.testing.assert_close(hidden[~is_pad], exact(*inputs())[0][~is_pad], atol=0.1, rtol=0.1)
    hidden.square().sum().backward()
    trained = {name for name, value in mixed.model.named_parameters() if value.grad is not None}
    assert trained == {name for name, value in mixed.model.named_parameters() if value.requires_grad}
    assert len(mixed.trained_blocks()) == 1


def test_a_type_may_be_written_with_torch_before_it():
    assert a_config(dtype="torch.bfloat16").dtype == "bfloat16"
    with pytest.raises(ConfigError, match=r"dtype: input should be 'float32', 'bfloat16' or 'float16', found 'int8'"):
        a_config(dtype="int8")


def test_frozen_parts_stay_in_eval_mode():
    backbone = a_backbone()
    backbone.freeze(vision=True, language=True, last_layers=1)
    backbone.train()
    assert not backbone.model.vision_tower.training
    assert [layer.training for layer in backbone.text_blocks] == [False, False, True]
    assert not backbone.model.language_model.embed_tokens.training


@pytest.mark.parametrize(
    ("freeze", "blocks"),
    [
        ({"vision": False, "language": False, "last_layers": 0}, 5),
        ({"vision": True, "language": False, "last_layers": 0}, 3),
        ({"vision": False, "language": True, "last_layers": 0}, 5),
        ({"vision": True, "language": True, "last_layers": 2}, 2),
        ({"vision": True, "language": True, "last_layers": 0}, 0),
    ],
)
def test_blocks_that_gradients_pass_through_begin_with_the_first_trained_one(freeze, blocks):
    backbone = a_backbone()
    backbone.freeze(**freeze)
    assert len(backbone.trained_blocks()) == blocks


@FAMILIES
def test_a_saved_model_loads_bit_equal(tmp_path, family):
    source = save_source(tmp_path, family=family)
    cfg, backbone = from_source(tmp_path)
    assert (cfg.text.family, cfg.text.vocabulary, cfg.vision.depth, cfg.image_size) == (family, 11, 2, 16)
    load_weights(backbone, find_weights(cfg))
    expected = source.state_dict()
    assert backbone.model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in backbone.model.state_dict().items())


@pytest.mark.parametrize(
    "names",
    [
        {"language_model.": "language_model.model.", "vision_tower.": "vision_tower.vision_model."},
        {"language_model.": "model.language_model.", "vision_tower.": "model.vision_tower."}
        | {"multi_modal_projector.": "model.multi_modal_projector."},
    ],
    ids=["before 5", "since 5"],
)
def test_the_names_of_weights_in_older_and_newer_files_are_understood(tmp_path, names):
    """Those before 5 are what the files of google/paligemma-3b-pt-224 have."""
    source = save_source(tmp_path)
    stored = {}
    for name, value in source.state_dict().items():
        part = next((part for part in names if name.startswith(part)), "")
        stored[names.get(part, "") + name.removeprefix(part)] = value.contiguous()
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    cfg, backbone = from_source(tmp_path)
    load_weights(backbone, find_weights(cfg))
    expected = source.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in backbone.model.state_dict().items())


def test_a_cut_backbone_with_adapters_takes_the_layers_that_it_has(tmp_path):
    source = save_source(tmp_path)
    cfg, backbone = from_source(tmp_path, feature_layer=1)
    backbone.freeze(vision=True, language=True, last_layers=0)
    add_lora(backbone.model.language_model, LoraConfig(rank=2, alpha=4, dropout=0.0, targets=("q_proj",)))
    load_weights(backbone, find_weights(cfg))
    own = backbone.model.language_model.layers[0].self_attn.q_proj.base_layer.weight
    assert torch.equal(own, source.language_model.layers[0].self_attn.q_proj.weight)


def test_trained_weights_keep_the_precision_of_the_source(tmp_path):
    source = save_source(tmp_path)
    cfg, backbone = from_source(tmp_path, dtype="bfloat16")
    backbone.freeze(vision=True, language=False, last_layers=0)
    backbone.cast_frozen(cfg.dtype)
    load_weights(backbone, find_weights(cfg))
    assert torch.equal(backbone.model.language_model.embed_tokens.weight, source.language_model.embed_tokens.weight)
    frozen = backbone.model.multi_modal_projector.linear.weight
    assert torch.equal(frozen, source.multi_modal_projector.linear.weight.bfloat16())


def damaged(tmp_path, change):
    save_source(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    cfg, backbone = from_source(tmp_path)
    load_weights(backbone, find_weights(cfg))


def a_name(weights, part):
    return next(name for name in weights if part in name)


def test_a_missing_weight_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"found missing .*layers\.1\.mlp\.up_proj\.weight\.$"):
        damaged(tmp_path, lambda weights: weights.pop(a_name(weights, "layers.1.mlp.up_proj")))


def test_an_unexpected_weight_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"found unexpected .*extra\.weight\.$"):
        damaged(tmp_path, lambda weights: weights.update({"model.extra.weight": torch.zeros(2)}))


def test_a_wrong_shape_is_named(tmp_path):
    def change(weights):
        weights[a_name(weights, "projector.linear.bias")] = torch.zeros(5)

    with pytest.raises(CheckpointError, match=r"linear\.bias has shape \[5\] instead of \[24\]"):
        damaged(tmp_path, change)


@pytest.mark.parametrize("name", ["lm_head.weight", "language_model.lm_head.weight"])
def test_an_output_layer_of_its_own_is_left_out(tmp_path, name):
    damaged(tmp_path, lambda weights: weights.update({name: torch.zeros(11, 24)}))


def test_a_torn_file_is_said(tmp_path):
    save_source(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    cfg, backbone = from_source(tmp_path)
    with pytest.raises(CheckpointError, match="expected the weights of a PaliGemma, found damaged files"):
        load_weights(backbone, find_weights(cfg))


def test_reading_weights_writes_no_progress_into_logs(tmp_path, capfd):
    save_source(tmp_path)
    cfg, backbone = from_source(tmp_path)
    capfd.readouterr()
    load_weights(backbone, find_weights(cfg))
    assert capfd.readouterr() == ("", "")


def test_a_language_model_that_is_no_gemma_of_paligemma_is_refused(tmp_path):
    save_source(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["model_type"] = "gemma3_text"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"text_config: family: .* found 'gemma3_text'"):
        from_source(tmp_path)


def test_sizes_that_contradict_the_source_are_refused(tmp_path):
    save_source(tmp_path)
    with pytest.raises(ConfigError, match=r"policy.backbone.vision: expected what .*config.json says"):
        from_source(tmp_path, vision={**VISION, "depth": 7})


def test_a_model_of_another_kind_is_refused(tmp_path):
    save_source(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "llava"}))
    with pytest.raises(ConfigError, match="expected the model_type paligemma, found llava"):
        from_source(tmp_path)


def test_a_source_that_computes_in_another_way_is_refused(tmp_path):
    save_source(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["hidden_act"] = "silu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"text_config.hidden_act: expected gelu_pytorch_tanh, .*found silu"):
        from_source(tmp_path)


def test_a_backbone_needs_a_source_or_sizes():
    with pytest.raises(ConfigError, match="expected a source, or sizes under vision and text, found neither"):
        BackboneConfig.parse({"dtype": "float32"}, where="tests")


def test_an_adapter_for_a_layer_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"expected some of down_proj, gate_proj, .*found 'qproj'"):
        add_lora(a_backbone().model.language_model, LoraConfig(rank=2, alpha=4, dropout=0.0, targets=("qproj",)))


def test_published_configurations_are_understood(tmp_path):
    """What config.json of google/paligemma-3b-pt-224 and google/paligemma2-3b-pt-224 say of what decides the sizes."""
    vision = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "projection_dim": 2048,
        "projector_hidden_act": "gelu_fast",
        "vision_use_head": False,
    }
    gemma = {
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "model_type": "gemma",
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
        "vocab_size": 257216,
    }
    gemma2 = {
        "attn_logit_softcapping": 50.0,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "model_type": "gemma2",
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "vocab_size": 257216,
    }
    found = []
    for text in (gemma, gemma2):
        config = {"model_type": "paligemma", "vision_config": vision, "text_config": text, "image_token_index": 257152}
        (tmp_path / "config.json").write_text(json.dumps(config))
        cfg = resolved(BackboneConfig.parse({"source": str(tmp_path), "dtype": "bfloat16"}, where="tests"))
        found.append((cfg.image_size, cfg.vision.mlp_dim, cfg.text.width, cfg.text.kv_heads, cfg.text.head_dim))
    assert found == [(224, 4304, 2048, 1, 256), (224, 4304, 2304, 4, 256)]


def test_real_sizes_have_the_published_number_of_weights():
    """2.92 billion, on a device that holds none of them."""
    cfg = a_config(
        vision={"width": 1152, "depth": 27, "mlp_dim": 4304, "heads": 16, "patch_size": 14},
        text={"width": 2048, "depth": 18, "mlp_dim": 16384, "heads": 8, "kv_heads": 1, "head_dim": 256}
        | {"vocabulary": 257216},
    )
    with torch.device("meta"):
        backbone = PaliGemmaBackbone(cfg, image_size=224, vocabulary=1)
    assert isinstance(backbone.model, PaliGemmaModel)
    assert backbone.tokens_per_image == 256
    assert sum(value.numel() for value in backbone.parameters()) == 2_923_466_480
