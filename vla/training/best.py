"""Which weights the bundle gets: those of the last step, or those that have done best on the held-out samples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.errors import CheckpointError
from vla.training import checkpoint
from vla.training.job import BestConfig
from vla.training.state import TrainState


@dataclass(slots=True)
class Best:
    """The best validation so far of those that count; nothing counts without a `cfg`."""

    cfg: BestConfig | None
    step: int | None = None
    value: float | None = None

    def is_due(self, step: int, *, last: bool) -> bool:
        """Whether the validation of this step counts."""
        return self.cfg is not None and (last or step % self.cfg.every == 0)

    def offer(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Take in a validation that counts; returns whether it is the best so far.

        Of equal ones the earlier is better, and a value that is not finite is never the best.
        """
        if self.cfg is None:
            return False
        value = metrics[self.cfg.metric]
        better = math.isfinite(value) and (self.value is None or value < self.value)
        if better:
            self.step, self.value = step, value
        return better

    def notes(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, for `load`."""
        return {"step": self.step, "value": self.value}

    def load(self, notes: Mapping[str, Any]) -> None:
        self.step, self.value = notes["step"], notes["value"]

    def take(self, state: TrainState, checkpoints: Path) -> None:
        """Make a state that has come to the training's end that of the best step."""
        if self.step is None or self.step == state.step:
            return
        try:
            state.load(checkpoint.load(checkpoint.path_of(checkpoints, self.step)))
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} It has the best weights (train.best). Remove it and the later ones, and run the same command "
                f"again: it goes on from the one before it, or from the start."
            ) from None

    def summary(self) -> dict[str, Any]:
        """What the training's result says of it."""
        return {} if self.cfg is None else {"best_metric": self.cfg.metric, "best_value": self.value}
