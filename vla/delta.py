"""Delta actions (section `transforms.delta_actions`): action dimensions relative to the state that a chunk starts from.

    {actions: [0, 7], state: [3, 10]}    action dimension 0 is learned as action 0 - state 3, and so on to 6 and 9

All H steps of a chunk are relative to the one state that the policy sees before it, so errors do not add up along the
chunk, as they would between neighbouring steps. Which state dimension an action belongs to is for the user to say: the
two often have different orders, and nothing in a dataset tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from jaxtyping import Float32, Int64
from pydantic import AfterValidator, Field, model_validator

from vla.config import Config
from vla.errors import ConfigError

Dimension = Annotated[int, Field(ge=0)]


class DeltaRange(Config):
    """Neighbouring action dimensions and the state dimensions that they are relative to."""

    actions: tuple[Dimension, Dimension]
    """The first dimension and the one after the last."""
    state: tuple[Dimension, Dimension]
    """The same, as many."""

    @model_validator(mode="after")
    def _are_as_many(self) -> Self:
        widths = [end - first for first, end in (self.actions, self.state)]
        if widths[0] != widths[1] or widths[0] < 1:
            raise ValueError(f"expected as many action as state dimensions, at least one, found {widths}")
        return self


def _apart(ranges: tuple[DeltaRange, ...]) -> tuple[DeltaRange, ...]:
    dims = [dim for item in ranges for dim in range(*item.actions)]
    twice = sorted({dim for dim in dims if dims.count(dim) > 1})
    if twice:
        raise ValueError(f"expected every action dimension in one range at most, found {twice} in several")
    return ranges


DeltaRanges = Annotated[tuple[DeltaRange, ...], AfterValidator(_apart)]


@dataclass(frozen=True, slots=True)
class Delta:
    """The differences to take; with no dimension it changes nothing."""

    actions_K: Int64[np.ndarray, "K"]
    """Action dimensions."""
    state_K: Int64[np.ndarray, "K"]
    """The state dimension of each."""

    @classmethod
    def make(cls, ranges: Sequence[DeltaRange], *, state_dim: int, action_dim: int) -> Self:
        """Raises ConfigError when a range leaves the dimensions that there are."""
        for item in ranges:
            for what, (_, end), dims in (("actions", item.actions, action_dim), ("state", item.state, state_dim)):
                if end > dims:
                    raise ConfigError(
                        f"transforms.delta_actions: expected {what} among the dimensions 0 to {dims - 1}, "
                        f"found {list(getattr(item, what))}. Correct the range; its end is not part of it."
                    )
        return cls(_dims([item.actions for item in ranges]), _dims([item.state for item in ranges]))

    def __len__(self) -> int:
        return len(self.actions_K)

    def take(
        self, actions: Float32[np.ndarray, "*batch H A"], state: Float32[np.ndarray, "*batch S"]
    ) -> Float32[np.ndarray, "*batch H A"]:
        """Chunks relative to the states that they start from."""
        relative = actions.copy()
        relative[..., self.actions_K] = self.differences(actions, state[..., None, :])
        return relative

    def differences(
        self, actions: Float32[np.ndarray, "*rows A"], state: Float32[np.ndarray, "*rows S"]
    ) -> Float32[np.ndarray, "*rows K"]:
        """The dimensions to take alone, action by action."""
        return actions[..., self.actions_K] - state[..., self.state_K]

    def undo(
        self, actions: Float32[np.ndarray, "*batch H A"], state: Float32[np.ndarray, "*batch S"]
    ) -> Float32[np.ndarray, "*batch H A"]:
        """The inverse of `take`, to the resolution of float32."""
        absolute = actions.copy()
        absolute[..., self.actions_K] += state[..., None, self.state_K]
        return absolute


def _dims(ranges: Sequence[tuple[int, int]]) -> Int64[np.ndarray, "K"]:
    """The dimensions of all ranges, in their order."""
    return np.array([dim for pair in ranges for dim in range(*pair)], dtype=np.int64)
