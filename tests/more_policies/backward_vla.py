"""tiny_vla whose parts are registered in another order than they are used in, as no policy of the menu is.

DDP lays gradients out by registration, and after the first backward pass by the order in which they came.
"""

from typing import Literal

from vla.models.policy import FrozenEncoder
from vla.policies import tiny_vla
from vla.policies.tiny_vla import TinyVLA, make_spec
from vla.terms import PolicySpec

__all__ = ["Config", "build", "make_spec"]


class Config(tiny_vla.Config):
    name: Literal["backward_vla"]  # type: ignore[assignment]


class BackwardVLA(TinyVLA):
    def __init__(self, cfg: Config, spec: PolicySpec) -> None:
        super().__init__(cfg, spec)
        for name in reversed(list(self._modules)):
            self.add_module(name, self._modules.pop(name))


def build(cfg: Config, spec: PolicySpec) -> tuple[BackwardVLA, FrozenEncoder | None]:
    return BackwardVLA(cfg, spec), None
