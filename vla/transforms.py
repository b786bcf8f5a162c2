"""Between raw and normalised space: the same functions in training, evaluation and serving.

Everything here is numpy, stateless and reversible where the policy's output needs it. A bundle carries what is
needed to build a `Processor` again: the settings, the norm stats and the tokenizer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from PIL import Image
from pydantic import Field
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from vla import artifacts, keyed
from vla.config import Config
from vla.errors import ConfigError, DataError

Size = Annotated[int, Field(gt=0)]
Method = Literal["min_max", "mean_std", "quantile"]
DEGENERATE = 1e-4
"""A dimension whose spread is at most this times max(1, |median|) is constant for our purposes."""


class NormalizationConfig(Config):
    """How state and actions are brought to order one."""

    state: Method
    actions: Method
    degenerate_scale: Annotated[float, Field(gt=0)] = 1.0
    """Multiplies the threshold below which a dimension counts as constant."""


class AugmentConfig(Config):
    """Training-time image augmentation, keyed: one draw per sample and view."""

    shift_px: Annotated[int, Field(ge=0)]
    """Largest random shift in pixels (edge pixels repeated), as DrQ (arXiv:2004.13649)."""


class TransformsConfig(Config):
    """Section `transforms`."""

    image_size: tuple[Size, Size]
    """Rows, columns that the policy sees."""
    max_tokens: Annotated[int, Field(gt=0)]
    """Tokens of an instruction; a longer one is an error."""
    normalization: NormalizationConfig
    augment: AugmentConfig


@dataclass(frozen=True, slots=True)
class Statistics:
    """Per-dimension statistics of one quantity, raw units, float64."""

    mean: Float64[np.ndarray, "D"]
    std: Float64[np.ndarray, "D"]
    """Population standard deviation."""
    min: Float64[np.ndarray, "D"]
    max: Float64[np.ndarray, "D"]
    q01: Float64[np.ndarray, "D"]
    q50: Float64[np.ndarray, "D"]
    q99: Float64[np.ndarray, "D"]
    count: int

    @classmethod
    def from_plain(cls, values: Mapping[str, Sequence[float] | int], *, where: str) -> Self:
        names = ("mean", "std", "min", "max", "q01", "q50", "q99")
        missing = [name for name in (*names, "count") if name not in values]
        if missing:
            raise DataError(f"{where}: expected {', '.join(names)}, count; missing {', '.join(missing)}.")
        arrays = {name: np.asarray(values[name], dtype=np.float64) for name in names}
        shape = arrays["mean"].shape
        for name, array in arrays.items():
            if array.shape != shape or array.ndim != 1:
                raise DataError(
                    f"{where}: expected {shape[0] if shape else 'a list of'} values of each statistic, "
                    f"found {array.size} of {name}."
                )
        return cls(**arrays, count=int(np.asarray(values["count"])))

    def to_plain(self) -> dict[str, list[float] | int]:
        arrays = {name: getattr(self, name).tolist() for name in ("mean", "std", "min", "max", "q01", "q50", "q99")}
        return {**arrays, "count": self.count}


@dataclass(frozen=True, slots=True)
class NormStats:
    """The file `norm_stats.json`: openpi's layout (which openpi reads) plus count, median and provenance."""

    state: Statistics
    actions: Statistics
    provenance: Mapping[str, str | int]

    @classmethod
    def read(cls, path: Path) -> Self:
        values = artifacts.read_json(path, made_by="dvc repro norm_stats")
        try:
            stats = values["norm_stats"]
            return cls(
                Statistics.from_plain(stats["state"], where=f"{path}: state"),
                Statistics.from_plain(stats["actions"], where=f"{path}: actions"),
                values.get("provenance", {}),
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: expected norm_stats.state and norm_stats.actions, missing {error}.") from None

    def write(self, path: Path) -> None:
        stats = {"state": self.state.to_plain(), "actions": self.actions.to_plain()}
        artifacts.write_json(path, {"norm_stats": stats, "provenance": dict(self.provenance)})


class Normalize:
    """(x - offset) / scale per dimension; a degenerate dimension maps to 0 and back to its median."""

    def __init__(self, stats: Statistics, method: Method, *, degenerate_scale: float = 1.0) -> None:
        self.method = method
        self.offset, self.scale, spread = _affine(stats, method)
        threshold = DEGENERATE * np.maximum(1.0, np.abs(stats.q50)) * degenerate_scale
        self.degenerate = spread <= threshold
        self.offset = np.where(self.degenerate, stats.q50, self.offset)
        self.scale = np.where(self.degenerate, 1.0, self.scale)

    def forward(self, raw: Float32[np.ndarray, "*shape D"], *, clip: bool = False) -> Float32[np.ndarray, "*shape D"]:
        """Raw to normalised; `clip` limits min_max to [-1, 1], which inference does and training does not."""
        values = np.where(self.degenerate, 0.0, (raw.astype(np.float64) - self.offset) / self.scale)
        if clip and self.method == "min_max":
            values = values.clip(-1.0, 1.0)
        return values.astype(np.float32)

    def inverse(self, normalised: Float32[np.ndarray, "*shape D"]) -> Float32[np.ndarray, "*shape D"]:
        values = normalised.astype(np.float64) * self.scale + self.offset
        return np.where(self.degenerate, self.offset, values).astype(np.float32)


def _affine(
    stats: Statistics, method: Method
) -> tuple[Float64[np.ndarray, "D"], Float64[np.ndarray, "D"], Float64[np.ndarray, "D"]]:
    """Offset, scale and the spread that decides whether a dimension is degenerate."""
    if method == "mean_std":
        return stats.mean, stats.std, stats.std
    low, high = (stats.min, stats.max) if method == "min_max" else (stats.q01, stats.q99)
    return (low + high) / 2, (high - low) / 2, high - low


class Tokenize:
    """Lower-cased words to ids; 0 pads, 1 stands for a word that training never saw."""

    PAD, UNKNOWN = "[PAD]", "[UNK]"

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens

    @classmethod
    def train(cls, instructions: Sequence[str], max_tokens: int) -> Self:
        """A word-level vocabulary of the given instructions; equal sets of them give equal ids."""
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
    def from_json(cls, text: str, max_tokens: int) -> Self:
        return cls(Tokenizer.from_str(text), max_tokens)

    def to_json(self) -> str:
        return json.dumps(json.loads(self._tokenizer.to_str()), sort_keys=True) + "\n"

    @property
    def vocabulary(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def __call__(self, instruction: str) -> tuple[Int64[np.ndarray, "L"], Bool[np.ndarray, "L"]]:
        """Token ids and which of them are padding."""
        ids = self._tokenizer.encode(instruction).ids
        if len(ids) > self.max_tokens:
            raise ConfigError(
                f"instruction {instruction!r}: expected at most {self.max_tokens} tokens, found {len(ids)}. "
                f"Raise transforms.max_tokens and train again, or shorten the instruction."
            )
        padded = np.zeros(self.max_tokens, dtype=np.int64)
        padded[: len(ids)] = ids
        return padded, np.arange(self.max_tokens) >= len(ids)


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


def shift(
    images_VCYX: UInt8[np.ndarray, "V C Y X"], offsets_V2: Int64[np.ndarray, "V 2"]
) -> UInt8[np.ndarray, "V C Y X"]:
    """Move each view's contents by (rows, columns) pixels, repeating the edge pixels."""
    rows, columns = images_VCYX.shape[2:]
    row_index = (np.arange(rows) - offsets_V2[:, :1]).clip(0, rows - 1)
    column_index = (np.arange(columns) - offsets_V2[:, 1:]).clip(0, columns - 1)
    views = np.arange(len(images_VCYX))[:, None, None]
    # Indexing the axes around C puts C last.
    moved = images_VCYX[views, :, row_index[:, :, None], column_index[:, None, :]]
    return np.moveaxis(moved, -1, 1)


def shift_offsets(cfg: AugmentConfig, seed: int, presentation: int, num_views: int) -> Int64[np.ndarray, "V 2"]:
    """The augmentation draw of one presented sample."""
    limit = cfg.shift_px
    draws = keyed.integers(seed, "augment", presentation, count=2 * num_views, low=-limit, high=limit + 1)
    return draws.reshape(num_views, 2)


@dataclass(frozen=True, slots=True)
class Processor:
    """Everything between a dataset or a robot and a policy, for one bundle."""

    cfg: TransformsConfig
    views: tuple[str, ...]
    state: Normalize
    actions: Normalize
    tokenize: Tokenize

    @classmethod
    def make(cls, cfg: TransformsConfig, views: Sequence[str], stats: NormStats, tokenize: Tokenize) -> Self:
        scale = cfg.normalization.degenerate_scale
        state = Normalize(stats.state, cfg.normalization.state, degenerate_scale=scale)
        actions = Normalize(stats.actions, cfg.normalization.actions, degenerate_scale=scale)
        return cls(cfg, tuple(views), state, actions, tokenize)

    def images(self, views: Mapping[str, UInt8[np.ndarray, "T Y X 3"]]) -> UInt8[np.ndarray, "T V 3 Y2 X2"]:
        """Resize and stack the policy's views; raises DataError when one is missing."""
        missing = [view for view in self.views if view not in views]
        if missing:
            raise DataError(
                f"images: expected the views {', '.join(self.views)}, found {', '.join(views) or 'none'}. "
                f"Add {', '.join(missing)}."
            )
        stacked = np.stack([resize(views[view], self.cfg.image_size) for view in self.views], axis=1)
        return np.ascontiguousarray(np.moveaxis(stacked, -1, 2))
