"""Receding-horizon control: predict a chunk of actions, execute its first `execute_horizon`, sense again.

Several episodes run in lockstep, so that one forward pass serves all of them; an episode that ends is dropped from the
batch. Episodes that start later wait for the next reset: refilling single rows would make them replan at different
steps, and the passes small.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32

from vla import keyed
from vla.errors import ConfigError
from vla.models import inference
from vla.models.bundle import Bundle
from vla.models.policy import Memory
from vla.terms import Sensing


class PolicyRunner:
    """One policy that acts in several episodes at once."""

    def __init__(self, bundle: Bundle, *, execute_horizon: int, seed: int) -> None:
        """`seed` keys the noise, together with each episode's task and seed and the replanning index."""
        horizon = bundle.spec.action_horizon
        if not 1 <= execute_horizon <= horizon:
            raise ConfigError(
                f"rollout.execute_horizon: expected 1 to {horizon}, the steps that the policy predicts "
                f"(policy.action_horizon), found {execute_horizon}. Lower it."
            )
        stride = bundle.spec.step_stride
        if bundle.spec.window_steps > 1 and execute_horizon != stride:
            raise ConfigError(
                f"rollout.execute_horizon: expected {stride}, the steps between two observations of the policy's "
                f"window, found {execute_horizon}. Set it to {stride}."
            )
        self._bundle = bundle
        self._execute_horizon = execute_horizon
        self._seed = seed
        self.reset([], [])

    def reset(self, instructions: Sequence[str], episodes: Sequence[tuple[str, int]]) -> None:
        """Start one episode per instruction: empty queues, fresh memory; `episodes` are their tasks and seeds."""
        self._instructions = list(instructions)
        self._episodes = [keyed.uid(task, seed) for task, seed in episodes]
        self._memory: Memory | None = None
        self._queue_BHA = np.zeros((len(instructions), 0, self._bundle.spec.real_action_dim), np.float32)
        self._replanned = 0

    @property
    def must_sense(self) -> bool:
        """Whether the next actions need a new prediction."""
        return self._queue_BHA.shape[1] == 0

    def sense(self, sensed: Sequence[Sensing]) -> None:
        """Predict the next actions of every running episode from what each senses now."""
        spec = self._bundle.spec
        shape = (spec.action_horizon, spec.action_dim)
        noise_BHA = np.stack(
            [keyed.normal(self._seed, "rollout", uid, self._replanned, shape=shape) for uid in self._episodes]
        )
        chunk_BHA, self._memory = inference.predict(
            self._bundle, sensed, self._instructions, noise_BHA=noise_BHA, memory=self._memory
        )
        self._queue_BHA = chunk_BHA[:, : self._execute_horizon]
        self._replanned += 1

    def next_actions(self) -> Float32[np.ndarray, "B A"]:
        """The next action of every running episode, in raw units."""
        actions_BA, self._queue_BHA = self._queue_BHA[:, 0], self._queue_BHA[:, 1:]
        return actions_BA

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these episodes alone; the others have ended."""
        self._instructions = [self._instructions[row] for row in rows]
        self._episodes = [self._episodes[row] for row in rows]
        self._queue_BHA = self._queue_BHA[list(rows)]
        if self._memory is not None:
            index = torch.tensor(rows, dtype=torch.int64)
            self._memory = {name: value[index.to(value.device)] for name, value in self._memory.items()}
