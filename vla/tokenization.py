"""Text to token ids: the words of the data, or another project's tokenizer, and the prompts that policies read."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Float32, Int64
from pydantic import Discriminator, Tag
from tokenizers import Encoding, Tokenizer, models, normalizers, pre_tokenizers, trainers

from vla import prompts
from vla.assets import AssetSource
from vla.errors import ConfigError, DataError
from vla.terms import PromptName

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

Tokens = tuple[Int64[np.ndarray, "N L"], Bool[np.ndarray, "N L"]]
"""Token ids of N prompts and which of them are padding."""


class Tokenize:
    """Prompts to ids, padded at the end; how words become ids is the tokenizer's own business."""

    PAD, UNKNOWN = "[PAD]", "[UNK]"

    def __init__(
        self, tokenizer: Tokenizer, max_tokens: int, *, prompt: PromptName = "instruction", pad: str | None = None
    ) -> None:
        """`pad` is the token that pads; null for the tokenizer's own. Raises ConfigError where there is none."""
        self._pad, token = _padding(tokenizer, pad)
        # A file may bring its own habits: cutting what is long, or padding elsewhere and to another length.
        tokenizer.no_truncation()
        tokenizer.enable_padding(direction="right", pad_id=self._pad, pad_token=token, length=max_tokens)
        self._tokenizer = tokenizer
        self._begin = tokenizer.token_to_id(prompts.BEGIN) if prompts.begins(prompt) else None
        self.max_tokens = max_tokens
        self.prompt: PromptName = prompt
        self.vocabulary = max(tokenizer.get_vocab().values()) + 1
        """Ids are below this; some of them may be unused."""

    @classmethod
    def train(cls, instructions: Sequence[str], max_tokens: int, *, prompt: PromptName = "instruction") -> Self:
        """The lower-cased words of prompts of the given instructions; equal sets of them give equal ids.

        0 pads, 1 stands for a word that training never saw. Numbers that a prompt can say of a state are known.
        """
        tokenizer = Tokenizer(models.WordLevel(unk_token=cls.UNKNOWN))
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        # The trainer's own limit of 30 000 words would make rare words unknown without a sign.
        trainer = trainers.WordLevelTrainer(
            vocab_size=10**9, special_tokens=[cls.PAD, cls.UNKNOWN], show_progress=False
        )
        tokenizer.train_from_iterator(prompts.texts_of_all_words(prompt, sorted(set(instructions))), trainer)
        return cls(tokenizer, max_tokens, prompt=prompt)

    @classmethod
    def read(cls, file: Path, max_tokens: int, *, prompt: PromptName = "instruction", pad: str | None = None) -> Self:
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
        return cls(tokenizer, max_tokens, prompt=prompt, pad=pad)

    @classmethod
    def from_json(cls, text: str, max_tokens: int, *, prompt: PromptName = "instruction") -> Self:
        """What `to_json` has written."""
        return cls(Tokenizer.from_str(text), max_tokens, prompt=prompt)

    def to_json(self) -> str:
        """All of the tokenizer, its padding token included."""
        return json.dumps(json.loads(self._tokenizer.to_str()), sort_keys=True) + "\n"

    def with_length(self, max_tokens: int) -> Self:
        """The same tokenizer for prompts of up to `max_tokens`."""
        if max_tokens == self.max_tokens:
            return self
        return self.from_json(self.to_json(), max_tokens, prompt=self.prompt)

    def __call__(
        self, instruction: str, state_S: Float32[np.ndarray, "S"] | None = None
    ) -> tuple[Int64[np.ndarray, "L"], Bool[np.ndarray, "L"]]:
        """The prompt of one instruction."""
        ids_NL, is_pad_NL = self.batch([instruction], None if state_S is None else state_S[None])
        return ids_NL[0], is_pad_NL[0]

    def batch(self, instructions: Sequence[str], state_NS: Float32[np.ndarray, "N S"] | None = None) -> Tokens:
        """The prompts of N instructions, with the normalised states where prompts say them.

        Raises ConfigError where one is too long.
        """
        states = [None] * len(instructions) if state_NS is None else state_NS
        pairs = list(zip(instructions, states, strict=True))
        encoded = self._tokenizer.encode_batch([prompts.write(self.prompt, *pair) for pair in pairs])
        ids_NL = np.full((len(pairs), self.max_tokens), self._pad, dtype=np.int64)
        is_pad_NL = np.ones(ids_NL.shape, dtype=bool)
        for row, ids in enumerate(map(self._ids, encoded)):
            if len(ids) > self.max_tokens:
                raise self._too_long(*pairs[row], count=len(ids))
            ids_NL[row, : len(ids)] = ids
            is_pad_NL[row, : len(ids)] = False
        return ids_NL, is_pad_NL

    def check_length(self, instructions: Sequence[str], *, state_dim: int) -> None:
        """Raise ConfigError where a prompt is too long for a state at either end of what can be said."""
        for value in (-2.0, 2.0):
            self.batch(instructions, np.full((len(instructions), state_dim), value, dtype=np.float32))

    def unknown_words(self, instructions: Sequence[str]) -> list[str]:
        """What the tokenizer takes for unknown in the prompts, each once, in order; none where it knows bytes."""
        unknown = self._tokenizer.token_to_id(getattr(self._tokenizer.model, "unk_token", None) or "")
        found: dict[str, None] = {}
        for text in prompts.texts_of_all_words(self.prompt, sorted(set(instructions))):
            encoded = self._tokenizer.encode(text)
            places = zip(encoded.ids, encoded.offsets, strict=True)
            found |= {text[begin:end]: None for number, (begin, end) in places if number == unknown}
        return list(found)

    def _ids(self, encoded: Encoding) -> list[int]:
        """Without padding; beginning as the prompt does, whether or not the tokenizer sees to that itself."""
        ids: list[int] = encoded.ids[: sum(encoded.attention_mask)]
        return ids if self._begin is None or ids[:1] == [self._begin] else [self._begin, *ids]

    def _too_long(self, instruction: str, state_S: Float32[np.ndarray, "S"] | None, *, count: int) -> ConfigError:
        cause = ""
        if prompts.reads_state(self.prompt) and state_S is not None:
            without = self._ids(self._tokenizer.encode(prompts.write(self.prompt, instruction, state_S[:0])))
            cause = f", {count - len(without)} of them for the {len(state_S)} numbers of the state"
        return ConfigError(
            f"instruction {instruction!r}: expected at most {self.max_tokens} tokens, found {count}{cause}. "
            f"Raise transforms.max_tokens and train again, or shorten the instruction."
        )


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
