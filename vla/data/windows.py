"""Index arithmetic of windows: which steps a sample observes, which actions it predicts, and with what weight.

A sample is one step t of one episode of length n. With T observation steps at stride s, P predicted steps and a
chunk of H actions, the sample

    observes   t - s * (T - 1 - i)           for i in 0..T-1, clamped to 0 and marked as padding below 0
    predicts   p + h                         for each of the last P observed steps p and h in 0..H-1,
                                             clamped to n - 1; its weight is 1 while p >= 0 and p + h < u, else 0

u is the number of supervised steps: n, or fewer after a terminal step. Where an episode was merely cut off, u is
FOREVER (vla/data/episodes.py): its last action goes on being the right one. No index ever leaves the episode. Memory
is proportional to episodes; looking a sample up costs a binary search.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float32, Int64

from vla.terms import PolicySpec, Steps


@dataclass(frozen=True, slots=True)
class Window:
    """The step indices of B samples, relative to their episodes' starts."""

    observed_BT: Int64[np.ndarray, "B T"]
    step_is_pad_BT: Bool[np.ndarray, "B T"]
    actions_BPH: Int64[np.ndarray, "B P H"]
    weight_BPH: Float32[np.ndarray, "B P H"]
    """1 where the action is supervised, else 0."""


@dataclass(frozen=True, slots=True)
class Windows:
    """All samples of a set of episodes, in dataset order."""

    end_E: Int64[np.ndarray, "E"]
    """Index of the first sample after each episode."""
    length_E: Int64[np.ndarray, "E"]
    supervised_E: Int64[np.ndarray, "E"]
    """Steps from each episode's start whose actions have a weight; FOREVER for those after the end as well."""
    spec: PolicySpec

    @classmethod
    def make(cls, length_E: Int64[np.ndarray, "E"], supervised_E: Int64[np.ndarray, "E"], spec: PolicySpec) -> Self:
        return cls(np.cumsum(length_E), length_E, supervised_E, spec)

    def __len__(self) -> int:
        return int(self.end_E[-1])

    def locate(self, sample_B: Int64[np.ndarray, "B"]) -> tuple[Int64[np.ndarray, "B"], Int64[np.ndarray, "B"]]:
        """Episode row and step of each sample."""
        episode = np.searchsorted(self.end_E, sample_B, side="right")
        return episode, sample_B - self.start(episode)

    def start(self, episode_B: Int64[np.ndarray, "B"]) -> Int64[np.ndarray, "B"]:
        """The first sample of each of the given episodes."""
        return self.end_E[episode_B] - self.length_E[episode_B]

    def window(self, episode_B: Int64[np.ndarray, "B"], step_B: Int64[np.ndarray, "B"]) -> Window:
        """The windows of the given steps."""
        spec, last_B = self.spec, self.length_E[episode_B] - 1
        back_T = spec.step_stride * np.arange(spec.window_steps - 1, -1, -1)
        wanted_BT = step_B[:, None] - back_T
        is_pad_BT = wanted_BT < 0
        from_BP = wanted_BT[:, -spec.predict_steps :]
        wanted_BPH = from_BP[:, :, None] + np.arange(spec.action_horizon)
        weight_BPH = (from_BP[:, :, None] >= 0) & (wanted_BPH < self.supervised_E[episode_B][:, None, None])
        return Window(
            observed_BT=wanted_BT.clip(min=0),
            step_is_pad_BT=is_pad_BT,
            actions_BPH=np.minimum(wanted_BPH.clip(min=0), last_B[:, None, None]),
            weight_BPH=weight_BPH.astype(np.float32),
        )


def recorded_chunks(
    steps: Steps, step_N: Int64[np.ndarray, "N"], *, supervised: int, spec: PolicySpec
) -> tuple[Float32[np.ndarray, "N H A"], Float32[np.ndarray, "N H"]]:
    """The chunks that an episode has recorded from the given steps on, in raw units, and the weight of each action.

    It is 1 where the action was recorded within the first `supervised` steps. What repeats after the episode's end was
    not, whether or not training counts it.
    """
    windows = Windows.make(np.array([len(steps)]), np.array([min(len(steps), supervised)]), spec)
    window = windows.window(np.zeros_like(step_N), step_N)
    return steps.actions_TA[window.actions_BPH[:, -1]], window.weight_BPH[:, -1]
