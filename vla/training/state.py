"""Everything that a training step changes, as one value that goes to and from tensors by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from vla.errors import CheckpointError
from vla.models.policy import Policy
from vla.training.checkpoint import Checkpoint
from vla.training.ema import Ema
from vla.training.frozen import digest_of_tensors, frozen_parameters
from vla.training.job import TrainConfig
from vla.training.optim import make_optimizer
from vla.training.precision import LossScale


@dataclass(slots=True)
class TrainState:
    """Mutable state of a run. Sample order and noise are functions of `step`, so there is nothing else to keep."""

    policy: Policy[Any]
    optimizer: torch.optim.AdamW
    ema: Ema
    frozen: str
    """Digest of the weights that take no gradient: the policy brings them, so checkpoints hold the digest alone."""
    loss_scale: LossScale
    step: int = 0
    """Optimizer steps taken."""

    @classmethod
    def fresh(cls, policy: Policy[Any], cfg: TrainConfig) -> Self:
        """The state before the first step; `policy` is on its device already."""
        trainable = {name: value for name, value in policy.named_parameters() if value.requires_grad}
        frozen = digest_of_tensors(frozen_parameters(policy))
        ema, loss_scale = Ema(trainable, decay=cfg.ema), LossScale.of(cfg.precision)
        return cls(policy, make_optimizer(policy, cfg.optimizer), ema, frozen, loss_scale)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """File stem -> name -> tensor, of all that training changes."""
        return {"model": self._model(), "optimizer": self._moments(), "ema": dict(self.ema.values)}

    def notes(self) -> dict[str, Any]:
        """What a checkpoint says beside the tensors."""
        return {"frozen": self.frozen, "loss_scale": self.loss_scale.notes()}

    def load(self, found: Checkpoint) -> None:
        """Take over a checkpoint; names and shapes must be this state's own, and so must the frozen weights."""
        own, tensors = {"model": self._model(), "ema": self.ema.values}, found.tensors
        for stem, values in own.items():
            shapes = {name: tensor.shape for name, tensor in tensors[stem].items()}
            expected = {name: tensor.shape for name, tensor in values.items()}
            if shapes != expected:
                wrong = sorted(set(shapes.items()) ^ set(expected.items()), key=str)[:4]
                raise CheckpointError(
                    f"{found.path}: {stem} differs from this policy in {wrong}. It is of another policy."
                )
        if found.notes["frozen"] != self.frozen:
            raise CheckpointError(
                f"{found.path}: expected a policy with frozen weights of SHA-256 {found.notes['frozen']}, found "
                f"{self.frozen}: they are others than when the training began. Restore them, or start afresh with "
                f"'vla train --overwrite'."
            )
        self.policy.load_state_dict(tensors["model"], strict=False)  # compared above; the frozen ones are in place
        self.ema.values = {name: _copied(value, self.ema.values[name].device) for name, value in tensors["ema"].items()}
        self._load_moments(tensors["optimizer"], where=str(found.path))
        self.loss_scale = LossScale(**found.notes["loss_scale"])
        self.step = found.step

    def parameters(self) -> dict[str, Tensor]:
        """Name -> trainable parameter."""
        return {name: value for name, value in self.policy.named_parameters() if value.requires_grad}

    def _model(self) -> dict[str, Tensor]:
        """Trainable weights, each under its first name, and buffers."""
        trained, named = self.parameters(), dict(self.policy.named_parameters(remove_duplicate=False))
        return {name: value for name, value in self.policy.state_dict().items() if name in trained or name not in named}

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
            # AdamW keeps its step counter on the CPU, unless it is fused.
            counter = moment == "step" and not self.optimizer.defaults["fused"]
            place = torch.device("cpu") if counter else named[name].device
            self.optimizer.state[named[name]][moment] = _copied(value, place)


def _copied(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of a checkpoint's own memory: as read, it is a view of the file, which could then not be removed."""
    return value.to(device, copy=True)


def weights_for_bundle(state: TrainState) -> dict[str, Tensor]:
    """What the bundle gets: the model with averaged weights in place of the trained ones, under all their names."""
    trained = state.parameters()
    averaged = {id(trained[name]): value for name, value in state.ema.values.items()}
    named = state.policy.named_parameters(remove_duplicate=False)
    shared = {name: averaged[id(value)] for name, value in named if id(value) in averaged}
    return {**state.policy.state_dict(), **shared}
