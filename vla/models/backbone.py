"""SigLIP as transformers has it: the vision tower of PaliGemma and so of pi0 and pi0.5."""

from collections.abc import Sequence
from typing import Annotated, Any, Self, cast

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from vla.config import Config

Size = Annotated[int, Field(gt=0)]


class SiglipSize(Config):
    """Sizes of a SigLIP vision transformer."""

    width: Size
    depth: Size
    mlp_dim: Size
    heads: Size
    patch_size: Size
    """Rows and columns of pixels per token."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"expected a width that its {self.heads} heads divide, found {self.width}")
        return self


class VisionTower(nn.Module):
    """Square images to one token per patch, without a pooling head."""

    def __init__(self, size: SiglipSize, *, image_size: int, attention: str) -> None:
        super().__init__()
        settings: dict[str, Any] = {
            "hidden_size": size.width,
            "num_hidden_layers": size.depth,
            "intermediate_size": size.mlp_dim,
            "num_attention_heads": size.heads,
            "patch_size": size.patch_size,
            "image_size": image_size,
            "vision_use_head": False,
            "attn_implementation": attention,
        }
        model = SiglipVisionModel(SiglipVisionConfig(**settings))
        # Its parts under their own names, without a further level in the names of weights.
        self.embeddings, self.encoder, self.post_layernorm = model.embeddings, model.encoder, model.post_layernorm

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The transformer's layers."""
        return cast("Sequence[nn.Module]", self.encoder.layers)

    def forward(self, pixels_NCYX: Float[Tensor, "N C Y X"]) -> Float[Tensor, "N P D"]:
        """Pixels in [-1, 1] to P tokens, row by row."""
        encoded: Any = self.encoder(inputs_embeds=self.embeddings(pixels_NCYX))
        tokens: Tensor = self.post_layernorm(encoded.last_hidden_state)
        return tokens
