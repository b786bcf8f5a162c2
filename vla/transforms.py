"""Between raw and normalised space: the same functions in training, evaluation and serving.

Everything here is numpy and stateless. A bundle carries what is needed to build a `Processor` again: the settings, the
norm stats and the tokenizer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from pydantic import Field

from vla.augmentation import AugmentConfig
from vla.config import Config
from vla.delta import Delta, DeltaRanges
from vla.errors import DataError
from vla.normalization import NormalizationConfig, Normalize, NormStats, make_normalize
from vla.tokenization import Tokenize, TokenizerChoice

Size = Annotated[int, Field(gt=0)]


class TransformsConfig(Config):
    """Section `transforms`."""

    image_size: tuple[Size, Size]
    """Rows, columns that the policy sees."""
    max_tokens: Annotated[int, Field(gt=0)]
    """Tokens of a policy's prompt, such as an instruction; a longer one is an error."""
    tokenizer: TokenizerChoice = "words"
    """words: a vocabulary of the train split's instructions; else another project's tokenizer. DVC does not watch the
    file: when it changes, run `dvc repro -f -s train`, which sees that it is another training."""
    normalization: NormalizationConfig
    delta_actions: DeltaRanges = ()
    """Action dimensions that are learned relative to the state at the start of a chunk."""
    augment: AugmentConfig


def resize(images: UInt8[np.ndarray, "N Y X 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "N Y2 X2 3"]:
    """Bilinear resize to `size` (rows, columns) keeping the aspect ratio, centred on black."""
    rows, columns = images.shape[1:3]
    if (rows, columns) == size:
        return images
    factor = min(size[0] / rows, size[1] / columns)
    inner = (max(1, round(rows * factor)), max(1, round(columns * factor)))
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    out = np.zeros((len(images), *size, 3), dtype=np.uint8)
    for image, target in zip(images, out, strict=True):
        small = Image.fromarray(image).resize((inner[1], inner[0]), Image.Resampling.BILINEAR)
        target[top : top + inner[0], left : left + inner[1]] = np.asarray(small)
    return out


@dataclass(frozen=True, slots=True)
class Processor:
    """Everything between a dataset or a robot and a policy, for one bundle."""

    cfg: TransformsConfig
    views: tuple[str, ...]
    state: Normalize
    actions: Normalize
    delta: Delta
    tokenize: Tokenize

    @classmethod
    def make(cls, cfg: TransformsConfig, views: Sequence[str], stats: NormStats, tokenize: Tokenize) -> Self:
        """Raises the user's errors when settings and statistics do not go together."""
        state, actions = (make_normalize(cfg.normalization, stats, quantity) for quantity in ("state", "actions"))
        delta = Delta.make(cfg.delta_actions, state_dim=stats.state.dims, action_dim=stats.actions.dims)
        # Files of other projects do not say what they were computed of.
        expected, found = cfg.plain()["delta_actions"], stats.provenance.get("delta_actions")
        if found not in (None, expected):
            raise DataError(
                f"norm stats: expected statistics of transforms.delta_actions {expected}, found those of {found}. "
                f"Run 'dvc repro norm_stats'."
            )
        return cls(cfg, tuple(views), state, actions, delta, tokenize)

    def images(self, views: Mapping[str, UInt8[np.ndarray, "T Y X 3"]]) -> UInt8[np.ndarray, "T V 3 Y2 X2"]:
        """Resize and stack the policy's views; raises DataError when one is missing.

        In memory a pixel's colours stay together, as decoders leave them and convolutions like them.
        """
        missing = [view for view in self.views if view not in views]
        if missing:
            raise DataError(
                f"images: expected the views {', '.join(self.views)}, found {', '.join(views) or 'none'}. "
                f"Add {', '.join(missing)}."
            )
        stacked = np.stack([resize(views[view], self.cfg.image_size) for view in self.views], axis=1)
        return np.moveaxis(stacked, -1, 2)

    def normalise_actions(
        self, actions: Float32[np.ndarray, "*batch H A"], state: Float32[np.ndarray, "*batch S"]
    ) -> Float32[np.ndarray, "*batch H A"]:
        """Raw action chunks as the policy learns them; `state` is the raw state that each chunk starts from."""
        return self.actions.forward(self.delta.take(actions, state))

    def restore_actions(
        self, chunk: Float32[np.ndarray, "*batch H A"], state: Float32[np.ndarray, "*batch S"]
    ) -> Float32[np.ndarray, "*batch H A"]:
        """Raw action chunks out of the policy's; the inverse of `normalise_actions`."""
        return self.delta.undo(self.actions.inverse(chunk), state)
