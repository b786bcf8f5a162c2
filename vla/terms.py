"""The words and shape letters of the project, and the descriptions of a dataset and of a policy's interface.

One word, one meaning:
  episode         one recording, start to end             step             one time index of an episode, at `fps`
  window          T observation steps and the action chunk that follows the last P of them
  action chunk    the H future actions of a prediction    view             one camera's image stream
  action_horizon  predicted steps                         execute_horizon  executed steps before replanning
  state           proprioception vector                   instruction      task text of an episode
  norm stats      per-dimension statistics of the train split
  policy          network from normalised observation to flow velocity     backbone / action expert, prefix / suffix
  flow time       1 = noise, 0 = actions (openpi's convention)             rollout   one closed-loop episode
  bundle          a policy on disk, complete enough to act                 passport  what made the bundle

Shape letters, as suffixes of names (`noisy_actions_BHA`) and in annotations:
  B batch      T observation steps, oldest first     P predicted steps (last P of T)    Q = B * P
  V views      H action horizon    A action dim      S state dim      L text tokens     N feature tokens    D width
  C Y X        image channels, rows, columns
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, UInt8

Need = Literal["depth", "intrinsics", "poses"]
Dependency = Literal["images", "instruction", "state", "depth", "poses"]
PromptName = Literal["instruction", "paligemma", "pi0", "pi05"]
"""What text a policy reads: vla/prompts.py."""


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """One output of a policy's frozen part, per step: a [N, D] array."""

    shape: tuple[int, int]
    dtype: Literal["float32", "float16", "bfloat16"]
    depends_on: frozenset[Dependency]


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """What a policy sees and predicts; enough to make a correct fake batch."""

    views: tuple[str, ...]
    image_size: tuple[int, int]
    """Rows, columns of each view as the policy gets it."""
    state_dim: int
    action_dim: int
    """Of the policy's tensors, A; the last `padded_action_dims` of them are not the data's."""
    action_horizon: int
    max_tokens: int
    vocabulary: int
    """Number of token ids."""
    padded_action_dims: int = 0
    """Dimensions that fill the data's actions up to the width of a pretrained policy: 0 wherever actions are."""
    prompt: PromptName = "instruction"
    window_steps: int = 1
    predict_steps: int = 1
    step_stride: int = 1
    """Dataset steps between two steps of a window."""
    needs: frozenset[Need] = frozenset()
    features: Mapping[str, FeatureSpec] = field(default_factory=dict)

    @property
    def real_action_dim(self) -> int:
        """Dimensions of the data's actions, the first ones."""
        return self.action_dim - self.padded_action_dims


@dataclass(frozen=True, slots=True)
class DatasetSchema:
    """What every episode of a dataset has in common, in the project's words."""

    name: str
    format: str
    fps: float
    views: Mapping[str, tuple[int, int]]
    """View name -> (rows, columns) as stored."""
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    robot: str
    state_columns: Mapping[str, int]
    """Column that the state is made of -> the dimensions that it has as a whole."""
    depth: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """View name -> (rows, columns) of its depth, for the views that have one."""

    @property
    def state_dim(self) -> int:
        return len(self.state_names)

    @property
    def action_dim(self) -> int:
        return len(self.action_names)


@dataclass(frozen=True, slots=True)
class Steps:
    """The numeric columns of one episode, in raw units."""

    timestamp_T: Float64[np.ndarray, "T"]
    """Seconds since the episode start."""
    state_TS: Float32[np.ndarray, "T S"]
    actions_TA: Float32[np.ndarray, "T A"]

    def __len__(self) -> int:
        return len(self.timestamp_T)


Range = tuple[Float64[np.ndarray, "D"], Float64[np.ndarray, "D"]]
"""Smallest and largest value of each dimension."""


@dataclass(frozen=True, slots=True)
class Tasks:
    """The texts of an episode's tasks, said twice."""

    listed: frozenset[str]
    """By the metadata."""
    in_rows: frozenset[str]
    """By the episode's own rows."""


@dataclass(frozen=True, slots=True)
class Sensing:
    """One step of what a robot or an environment senses, in raw units; what a policy is served with."""

    images: Mapping[str, UInt8[np.ndarray, "Y X 3"]]
    state_S: Float32[np.ndarray, "S"]
    time: float
    """Seconds since the episode start."""
