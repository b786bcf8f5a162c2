"""pi0.5: flow time enters through the norms of the action expert (adaRMS), the state is part of the text.

Physical Intelligence, arXiv:2504.16054; numbers as openpi has them.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional

from vla.models.pi import PiConfig, PiPolicy, Prefix, Suffix, make_spec
from vla.models.policy import FrozenEncoder
from vla.terms import PolicySpec, PromptName

__all__ = ["Config", "build", "make_spec"]


class Config(PiConfig):
    """Section `policy` for pi05."""

    prompt: ClassVar[PromptName] = "pi05"

    name: Literal["pi05"]


class Pi05(PiPolicy):
    """See the module's docstring."""

    def __init__(self, cfg: Config, spec: PolicySpec) -> None:
        super().__init__(cfg, spec, adaptive=True)
        width = cfg.expert.width
        self.time_in, self.time_out = nn.Linear(width, width), nn.Linear(width, width)

    def suffix(
        self, context: Prefix, noisy_actions_QHA: Float[Tensor, "Q H A"], time_QHD: Float32[Tensor, "Q H D"]
    ) -> Suffix:
        """Action tokens in one block."""
        del context
        tokens = self.action_in(noisy_actions_QHA)
        condition = functional.silu(self.time_out(functional.silu(self.time_in(time_QHD.to(tokens.dtype)))))
        return Suffix(tokens, condition, torch.zeros(tokens.shape[1], dtype=torch.int64, device=tokens.device))


def build(cfg: Config, spec: PolicySpec) -> tuple[Pi05, FrozenEncoder | None]:
    """A freshly initialised policy; its frozen parts, if any, are inside it."""
    return Pi05(cfg, spec), None
