"""Between raw and normalised space: the same functions in training, evaluation and serving.

Everything here is numpy and stateless. A bundle carries what is needed to build a `Processor` again: the settings, the
norm stats and the tokenizer.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL import Image
from pydantic import Discriminator, Field, Tag
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from vla.assets import AssetSource
from vla.augmentation import AugmentConfig
from vla.config import Config
from vla.delta import Delta, DeltaRanges
from vla.errors import ConfigError, DataError
from vla.normalization import NormalizationConfig, Normalize, NormStats, make_normalize

Size = Annotated[int, Field(gt=0)]
PADDING = re.compile(r"\W*pad\W*", re.IGNORECASE)
"""What tokenizers call their padding token: [PAD], <pad>, <|pad|>."""


class TokenizerSource(AssetSource):
    """A `tokenizer.json` of Hugging Face's tokenizers; of a folder or a repository, the one at its top."""

    pad: str | None = None
    """The token that pads, such as the end-of-text token of a tokenizer that has none for padding."""


def _kind(value: Any) -> str | None:
    """Which member of the union `TokenizerChoice` a value is; None for none."""
    if isinstance(value, str):
        return value if value == "words" else None
    return TokenizerSource.__name__


TokenizerChoice = Annotated[
    Annotated[Literal["words"], Tag("words")] | Annotated[TokenizerSource, Tag(TokenizerSource.__name__)],
    Discriminator(
        _kind,
        custom_error_type="tokenizer",
        custom_error_message="expected words, or the source of a tokenizer.json",
    ),
]


class TransformsConfig(Config):
    """Section `transforms`."""

    image_size: tuple[Size, Size]
    """Rows, columns that the policy sees."""
    max_tokens: Annotated[int, Field(gt=0)]
    """Tokens of an instruction; a longer one is an error."""
    tokenizer: TokenizerChoice = "words"
    """words: a vocabulary of the train split's instructions; else another project's tokenizer. DVC does not watch the
    file: when it changes, run `dvc repro -f -s train`, which sees that it is another training."""
    normalization: NormalizationConfig
    delta_actions: DeltaRanges = ()
    """Action dimensions that are learned relative to the state at the start of a chunk."""
    augment: AugmentConfig


class Tokenize:
    """An instruction to ids, padded at the end; how words become ids is the tokenizer's own business."""

    PAD, UNKNOWN = "[PAD]", "[UNK]"

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, *, pad: str | None = None) -> None:
        """`pad` is the token that pads; null for the tokenizer's own. Raises ConfigError where there is none."""
        pad_id, token = _padding(tokenizer, pad)
        # A file may bring its own habits: cutting what is long, or padding elsewhere and to another length.
        tokenizer.no_truncation()
        tokenizer.enable_padding(direction="right", pad_id=pad_id, pad_token=token, length=max_tokens)
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.vocabulary = max(tokenizer.get_vocab().values()) + 1
        """Ids are below this; some of them may be unused."""

    @classmethod
    def train(cls, instructions: Sequence[str], max_tokens: int) -> Self:
        """The lower-cased words of the given instructions; equal sets of them give equal ids.

        0 pads, 1 stands for a word that training never saw.
        """
        tokenizer = Tokenizer(models.WordLevel(unk_token=cls.UNKNOWN))
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        # The trainer's own limit of 30 000 words would make rare words unknown without a sign.
        trainer = trainers.WordLevelTrainer(
            vocab_size=10**9, special_tokens=[cls.PAD, cls.UNKNOWN], show_progress=False
        )
        tokenizer.train_from_iterator(sorted(set(instructions)), trainer)
        return cls(tokenizer, max_tokens)

    @classmethod
    def read(cls, file: Path, max_tokens: int, *, pad: str | None = None) -> Self:
        """The tokenizer in a `tokenizer.json`; raises DataError when the file is none."""
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:
            if type(error) is not Exception:  # all that the library raises
                raise
            raise DataError(
                f"{file}: expected a tokenizer.json of Hugging Face's tokenizers, found {error}. Correct "
                f"transforms.tokenizer.source."
            ) from None
        return cls(tokenizer, max_tokens, pad=pad)

    @classmethod
    def from_json(cls, text: str, max_tokens: int) -> Self:
        """What `to_json` has written."""
        return cls(Tokenizer.from_str(text), max_tokens)

    def to_json(self) -> str:
        """All of the tokenizer, its padding token included."""
        return json.dumps(json.loads(self._tokenizer.to_str()), sort_keys=True) + "\n"

    def __call__(self, instruction: str) -> tuple[Int64[np.ndarray, "L"], Bool[np.ndarray, "L"]]:
        """Token ids and which of them are padding."""
        encoded = self._tokenizer.encode(instruction)
        if len(encoded.ids) > self.max_tokens:
            raise ConfigError(
                f"instruction {instruction!r}: expected at most {self.max_tokens} tokens, found {len(encoded.ids)}. "
                f"Raise transforms.max_tokens and train again, or shorten the instruction."
            )
        return np.array(encoded.ids, dtype=np.int64), np.array(encoded.attention_mask) == 0

    def unknown_words(self, instructions: Sequence[str]) -> list[str]:
        """What the tokenizer takes for unknown in the instructions, each once, in order; none where it knows bytes."""
        unknown = self._tokenizer.token_to_id(getattr(self._tokenizer.model, "unk_token", None) or "")
        found: dict[str, None] = {}
        for text in sorted(set(instructions)):
            encoded = self._tokenizer.encode(text)
            places = zip(encoded.ids, encoded.offsets, strict=True)
            found |= {text[begin:end]: None for number, (begin, end) in places if number == unknown}
        return list(found)


def _padding(tokenizer: Tokenizer, stated: str | None) -> tuple[int, str]:
    """Id and text of the token that pads: the stated one, the one the file pads with, or the one that is called so."""
    if stated is not None:
        number = tokenizer.token_to_id(stated)
        if number is None:
            raise ConfigError(
                f"transforms.tokenizer.pad: expected a token of the tokenizer, found {stated!r}. Correct it."
            )
        return number, stated
    if tokenizer.padding is not None:
        return tokenizer.padding["pad_id"], tokenizer.padding["pad_token"]
    added = tokenizer.get_added_tokens_decoder()
    found = [(number, token.content) for number, token in added.items() if PADDING.fullmatch(token.content)]
    if len(found) != 1:
        raise ConfigError(
            f"transforms.tokenizer: expected a token for padding, found {len(found)} among "
            f"{', '.join(token.content for token in added.values()) or 'no special tokens'}. Set "
            f"transforms.tokenizer.pad to the one that pads, such as the end-of-text token."
        )
    return found[0]


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
