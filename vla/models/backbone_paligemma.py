"""PaliGemma 1 and 2 as a backbone: images and a text to one sequence of hidden states, by transformers' own classes.

    pixels --SigLIP--> tokens --projector--\\
                                             one sequence, all see all --Gemma--> hidden states of `feature_layer`
    text ids --------embedding-------------/

The layers are called here one by one instead of through `PaliGemmaModel.forward`: a frozen part in bfloat16 may stand
below a trained one in float32, absent cameras are hidden, and layers above `feature_layer` do not exist, so that every
trainable weight takes part in the loss. From transformers 5.4 on, the embedding itself multiplies by the root of the
width, and image tokens are used as they are.
"""

from collections.abc import Sequence
from itertools import chain, dropwhile
from typing import Annotated, Any, Literal, cast

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn
from transformers import PaliGemmaConfig, PaliGemmaModel

from vla.assets import AssetSource
from vla.config import Config
from vla.models.attention import padding_mask
from vla.models.backbone import SiglipSize
from vla.models.gemma import GemmaSize

Size = Annotated[int, Field(gt=0)]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    BeforeValidator(lambda value: value.removeprefix("torch.") if isinstance(value, str) else value),
]
"""A type of numbers, with or without `torch.` before it."""


class TextSize(GemmaSize):
    """Sizes of the language model."""

    family: Literal["gemma", "gemma2"]
    """gemma: PaliGemma 1; gemma2: PaliGemma 2."""
    vocabulary: Size | None
    """Rows of the embedding; null for those that the tokenizer needs."""
    query_scale: Size = 256
    """Queries of gemma2 are divided by its root (`query_pre_attn_scalar`); those of gemma by that of `head_dim`."""


class BackboneConfig(Config):
    """Section `policy.backbone`: a pretrained PaliGemma, whose files say its sizes, or sizes for random weights."""

    source: str | None = None
    """A folder with config.json and safetensors, or with `revision` OWNER/NAME of the Hub; null for random weights."""
    revision: str | None = None
    """Commit hash."""
    vision: SiglipSize | None = None
    text: TextSize | None = None
    image_size: Size | None = None
    """Rows and columns of the square images; null for those of `transforms.image_size`."""
    feature_layer: Size | None = None
    """Hidden states that are used: those after so many layers of the language model; null for all of them."""
    dtype: Dtype
    """Of frozen weights; trained ones are float32 (`train.precision` says how they compute)."""

    @model_validator(mode="after")
    def _says_what_it_is(self) -> "BackboneConfig":
        if self.source is None and (self.vision is None or self.text is None):
            raise ValueError("expected a source, or sizes under vision and text, found neither. Add one of them")
        if self.source is None and self.revision is not None:
            raise ValueError("expected a source OWNER/NAME beside a revision, found none. Add it")
        return self

    @property
    def asset(self) -> AssetSource | None:
        """Where the weights come from."""
        return None if self.source is None else AssetSource(source=self.source, revision=self.revision)

    @property
    def sizes(self) -> tuple[SiglipSize, TextSize]:
        """Those of vision and text, which a source has to say before."""
        if self.vision is None or self.text is None:
            raise AssertionError("the sizes of a pretrained backbone are in its own config.json: call resolved() first")
        return self.vision, self.text

    @property
    def layers(self) -> int:
        """Layers of the language model that exist."""
        depth = self.sizes[1].depth
        return depth if self.feature_layer is None else self.feature_layer


def model_config(vision: SiglipSize, text: TextSize, *, image_size: int, vocabulary: int) -> PaliGemmaConfig:
    """transformers' configuration of the given sizes; what they do not say is as in the published models."""
    tower = {
        "hidden_size": vision.width,
        "num_hidden_layers": vision.depth,
        "intermediate_size": vision.mlp_dim,
        "num_attention_heads": vision.heads,
        "patch_size": vision.patch_size,
        "image_size": image_size,
        "vision_use_head": False,
    }
    language = {
        "hidden_size": text.width,
        "num_hidden_layers": text.depth,
        "intermediate_size": text.mlp_dim,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "head_dim": text.head_dim,
        "vocab_size": vocabulary,
    }
    if text.family == "gemma2":
        language["query_pre_attn_scalar"] = text.query_scale
    return PaliGemmaConfig.from_dict(
        {
            "vision_config": {"model_type": "siglip_vision_model", **tower},
            "text_config": {"model_type": text.family, **language},
            "projection_dim": text.width,
            "hidden_size": text.width,
            "vocab_size": vocabulary,
        },
        # The softcapping of gemma2 is in transformers' eager attention alone.
        attn_implementation="eager" if text.family == "gemma2" else "sdpa",
    )


class PaliGemmaBackbone(nn.Module):
    """Images and text of a step to hidden states; see the module's docstring."""

    def __init__(self, cfg: BackboneConfig, *, image_size: int, vocabulary: int) -> None:
        """`vocabulary` is the tokenizer's, for where the sizes leave it open."""
        super().__init__()
        vision, text = cfg.sizes
        self.width = text.width
        self.tokens_per_image = (image_size // vision.patch_size) ** 2
        sizes = text.model_copy(update={"depth": cfg.layers})
        self.model: Any = PaliGemmaModel(
            model_config(vision, sizes, image_size=image_size, vocabulary=text.vocabulary or vocabulary)
        )
        if cfg.layers < text.depth:
            # Hidden states between layers are taken before any norm; the last ones after the final norm.
            self.model.language_model.norm = nn.Identity()

    @property
    def vision_blocks(self) -> Sequence[nn.Module]:
        return cast("Sequence[nn.Module]", self.model.vision_tower.encoder.layers)

    @property
    def text_blocks(self) -> Sequence[nn.Module]:
        return cast("Sequence[nn.Module]", self.model.language_model.layers)

    def trained_blocks(self) -> list[nn.Module]:
        """The layers that gradients pass through: from the first trained one on."""
        blocks = chain(self.vision_blocks, self.text_blocks)
        return list(dropwhile(lambda block: not is_trained(block), blocks))

    def freeze(self, *, vision: bool, language: bool, last_layers: int) -> None:
        """Exclude parts from training; the projector goes with the vision tower, whose output layer it is in openpi.

        Of a frozen language model the last `last_layers` layers, and the final norm with them, are trained.
        """
        model, text = self.model, self.model.language_model
        for part, is_frozen in ((model.vision_tower, vision), (model.multi_modal_projector, vision), (text, language)):
            part.requires_grad_(not is_frozen)
        if last_layers:
            for part in (*text.layers[-last_layers:], text.norm):
                part.requires_grad_(requires_grad=True)

    def cast_frozen(self, dtype: Dtype) -> None:
        """Give frozen weights the type `dtype`; buffers, such as the embedding's scale, keep theirs."""
        for value in self.parameters():
            if not value.requires_grad:
                value.data = value.data.to(getattr(torch, dtype))

    def train(self, mode: bool = True) -> "PaliGemmaBackbone":  # noqa: FBT001, FBT002 (torch's signature)
        """Frozen parts stay in eval mode."""
        super().train(mode)
        for module in self.model.modules():
            weights = list(module.parameters())
            if weights and not any(value.requires_grad for value in weights):
                module.eval()
        return self

    def forward(
        self,
        images_NVCYX: UInt8[Tensor, "N V C Y X"],
        image_is_pad_NV: Bool[Tensor, "N V"],
        tokens_NL: Int64[Tensor, "N L"],
        token_is_pad_NL: Bool[Tensor, "N L"],
    ) -> tuple[Float32[Tensor, "N M D"], Bool[Tensor, "N M"]]:
        """Hidden states of the M tokens of all views, then of the text, and which of them are padding.

        Every token sees every valid one, as PaliGemma's prefix does.
        """
        language = self.model.language_model
        text = language.embed_tokens(tokens_NL)
        x = torch.cat([self._image_tokens(images_NVCYX).to(text.dtype), text], dim=1)
        image_is_pad = image_is_pad_NV.repeat_interleave(self.tokens_per_image, dim=1)
        is_pad = torch.cat([image_is_pad, token_is_pad_NL], dim=1)
        position = (~is_pad).cumsum(dim=1).sub(1).clamp(min=0)
        mask = padding_mask(is_pad)
        cos, sin = language.rotary_emb(mask, position)  # the mask tells it device and type
        for layer in language.layers:
            dtype = layer.input_layernorm.weight.dtype
            x = layer(
                x.to(dtype),
                attention_mask=mask.to(dtype),
                position_ids=position,
                position_embeddings=(cos.to(dtype), sin.to(dtype)),
            )
        return language.norm(x).float(), is_pad

    def _image_tokens(self, images_NVCYX: UInt8[Tensor, "N V C Y X"]) -> Tensor:
        """[N, V * P, D], the views one after the other."""
        tower = self.model.vision_tower
        pixels = images_NVCYX.flatten(0, 1).float() / 127.5 - 1
        dtype = tower.embeddings.patch_embedding.weight.dtype
        tokens = self.model.multi_modal_projector(tower(pixels.to(dtype)).last_hidden_state)
        return cast("Tensor", tokens.unflatten(0, images_NVCYX.shape[:2]).flatten(1, 2))


def is_trained(module: nn.Module) -> bool:
    """Whether any weight of the module is."""
    return any(value.requires_grad for value in module.parameters())
