"""Everything that a training step changes, as one value that goes to and from tensors by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from vla.errors import CheckpointError
from vla.models.policy import Policy
from vla.training.ema import Ema
from vla.training.job import TrainConfig
from vla.training.optim import make_optimizer


@dataclass(slots=True)
class TrainState:
    """Mutable state of a run. Sample order and noise are functions of `step`, so there is nothing else to keep."""

    policy: Policy[Any]
    optimizer: torch.optim.AdamW
    ema: Ema
    step: int = 0
    """Optimizer steps taken."""

    @classmethod
    def fresh(cls, policy: Policy[Any], cfg: TrainConfig) -> Self:
        """The state before the first step; `policy` is on its device already."""
        trainable = {name: value for name, value in policy.named_parameters() if value.requires_grad}
        return cls(policy, make_optimizer(policy, cfg.optimizer), Ema(trainable, decay=cfg.ema))

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """File stem -> name -> tensor."""
        return {"model": dict(self.policy.state_dict()), "optimizer": self._moments(), "ema": dict(self.ema.values)}

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]], *, step: int, where: str) -> None:
        """Take over a checkpoint; names and shapes must be this state's own."""
        own = {"model": dict(self.policy.state_dict()), "ema": self.ema.values}
        for stem, values in own.items():
            found = {name: tensor.shape for name, tensor in tensors[stem].items()}
            expected = {name: tensor.shape for name, tensor in values.items()}
            if found != expected:
                wrong = sorted(set(found.items()) ^ set(expected.items()), key=str)[:4]
                raise CheckpointError(f"{where}: {stem} differs from this policy in {wrong}. It is of another policy.")
        self.policy.load_state_dict(tensors["model"])
        self.ema.values = {name: value.to(self.ema.values[name].device) for name, value in tensors["ema"].items()}
        self._load_moments(tensors["optimizer"], where=where)
        self.step = step

    def parameters(self) -> dict[str, Tensor]:
        """Name -> trainable parameter."""
        return {name: value for name, value in self.policy.named_parameters() if value.requires_grad}

    def _moments(self) -> dict[str, Tensor]:
        """AdamW's per-parameter state under `<parameter name>/<moment>`."""
        named = self.parameters()
        return {
            f"{name}/{moment}": value
            for name, parameter in named.items()
            for moment, value in self.optimizer.state.get(parameter, {}).items()
        }

    def _load_moments(self, tensors: Mapping[str, Tensor], *, where: str) -> None:
        named = self.parameters()
        self.optimizer.state.clear()
        for key, value in tensors.items():
            name, _, moment = key.rpartition("/")
            if name not in named:
                raise CheckpointError(
                    f"{where}: optimizer holds {key}, which this policy has not. It is of another policy."
                )
            # AdamW keeps its step counter on the CPU.
            place = torch.device("cpu") if moment == "step" else named[name].device
            self.optimizer.state[named[name]][moment] = value.to(place)


def weights_for_bundle(state: TrainState) -> dict[str, Tensor]:
    """What the bundle gets: the model with averaged weights in place of the trained ones."""
    return {**state.policy.state_dict(), **state.ema.values}
