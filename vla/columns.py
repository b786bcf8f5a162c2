"""The feature map (section `data.columns`): which columns of a dataset are what.

State and actions are whole columns, ranges of them, or sums over ranges:

    observation.state                     all dimensions of a column
    observation.state[0:7]                dimensions 0 to 6
    sum(observation.state[193:195])       one dimension, the sum of two: a gripper recorded as two fingers

A vector is one such part or a list of them, side by side in the given order.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
from jaxtyping import Float32
from pydantic import Field, field_validator

from vla.config import Config
from vla.errors import ConfigError

NAME = r"[^\[\]()\s](?:[^\[\]()\n]*[^\[\]()\s])?"
"""Anything without brackets that neither begins nor ends with a space."""
PART = re.compile(rf"(?P<sum>sum\()?(?P<column>{NAME})(?:\[(?P<start>\d+):(?P<stop>\d+)\])?(?(sum)\))")
Matrix = Float32[np.ndarray, "T D"]


@dataclass(frozen=True, slots=True)
class Part:
    """Some dimensions of one column."""

    column: str
    start: int | None
    stop: int | None
    """`start` and `stop` are None for the whole column."""
    is_sum: bool

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Raises ConfigError when the text is none of the three forms, or names an empty range."""
        found = PART.fullmatch(text.strip())
        if found is None or (found["start"] and int(found["start"]) >= int(found["stop"])):
            raise ConfigError(
                f"data.columns: expected COLUMN, COLUMN[FIRST:END] or sum(COLUMN[FIRST:END]), found {text!r}. "
                f"Correct it."
            )
        start, stop = (None, None) if found["start"] is None else (int(found["start"]), int(found["stop"]))
        return cls(found["column"], start, stop, found["sum"] is not None)

    def take(self, values_TD: Matrix) -> Matrix:
        """This part's dimensions out of the whole column's."""
        chosen = values_TD[:, self.start : self.stop]
        return chosen.sum(axis=1, keepdims=True, dtype=np.float32) if self.is_sum else chosen

    def names(self, column_names: Sequence[str]) -> tuple[str, ...]:
        """One name per dimension, out of the whole column's."""
        if self.stop is not None and self.stop > len(column_names):
            raise ConfigError(
                f"data.columns: expected a range within the {len(column_names)} dimensions of {self.column!r}, "
                f"found [{self.start}:{self.stop}]. Correct it."
            )
        chosen = tuple(column_names[self.start : self.stop])
        return (f"sum({'+'.join(chosen)})",) if self.is_sum else chosen


@dataclass(frozen=True, slots=True)
class Vector:
    """A state or an action as made of columns."""

    parts: tuple[Part, ...]

    @classmethod
    def parse(cls, spec: str | Sequence[str]) -> "Vector":
        return _parse((spec,) if isinstance(spec, str) else tuple(spec))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read, each once."""
        return tuple(dict.fromkeys(part.column for part in self.parts))

    @property
    def whole_column(self) -> str | None:
        """The one column that the vector is, where it is that simple."""
        part = self.parts[0]
        return part.column if len(self.parts) == 1 and part.start is None and not part.is_sum else None

    def names(self, names_of: Callable[[str], Sequence[str]]) -> tuple[str, ...]:
        """One name per dimension; `names_of` gives those of a column."""
        return tuple(name for part in self.parts for name in part.names(names_of(part.column)))

    def assemble(self, columns: Mapping[str, Matrix]) -> Matrix:
        """The vectors of T steps out of the whole columns."""
        taken = [part.take(columns[part.column]) for part in self.parts]
        return np.ascontiguousarray(np.concatenate(taken, axis=1)) if len(taken) > 1 else np.ascontiguousarray(taken[0])


@lru_cache(maxsize=64)
def _parse(texts: tuple[str, ...]) -> Vector:
    if not texts:
        raise ConfigError("data.columns: expected at least one column for state and for actions, found none. Name one.")
    return Vector(tuple(Part.parse(text) for text in texts))


class Columns(Config):
    """Section `data.columns`."""

    state: str | tuple[str, ...]
    """Proprioception: a column such as `observation.state`, or parts of columns (see above)."""
    actions: str | tuple[str, ...]
    """Actions, written like `state`."""
    views: Mapping[str, str]
    """View name -> image or video column, in the order in which the policy sees the views."""
    instruction: str | None = None
    """Column that says what to do; null for the dataset's own tasks where its format has them."""
    depth: Mapping[str, str] = {}
    """View name -> column of that view's depth, for policies that need it."""
    fps: Annotated[float, Field(gt=0)] | None = None
    """Steps per second, for formats that do not record it; elsewhere the dataset's own holds and this stays null."""

    @field_validator("state", "actions")
    @classmethod
    def _can_be_parsed(cls, spec: str | tuple[str, ...]) -> str | tuple[str, ...]:
        try:
            Vector.parse(spec)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return spec

    @field_validator("views", "depth")
    @classmethod
    def _are_apart(cls, columns: Mapping[str, str]) -> Mapping[str, str]:
        """A view is a part of names and keys, and a column under two names would be decoded and learned twice."""
        for view in columns:
            if not view or "/" in view:
                raise ValueError(f"expected names of views without '/', found {view!r}. Rename the view.")
        for column in columns.values():
            views = [view for view, other in columns.items() if other == column]
            if len(views) > 1:
                raise ValueError(
                    f"expected a column of its own for every view, found {column!r} for {views}. Keep one."
                )
        return columns


def short_names(columns: Sequence[str]) -> list[str]:
    """Names for views: the last parts of their columns' names, as few as tell them apart."""
    parts = [[part for part in re.split("[./]", column) if part] for column in columns]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["_".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names) and all(names):
            return names
    return [f"view_{index}" for index in range(len(columns))]
