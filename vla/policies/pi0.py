"""pi0: flow time is joined to the actions by an MLP, and the state is a token of its own.

Physical Intelligence, arXiv:2410.24164; numbers as openpi has them.
"""

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vla.errors import ConfigError
from vla.models import pi
from vla.models.pi import PiConfig, PiPolicy, Prefix, Suffix
from vla.models.policy import FrozenEncoder, Interface
from vla.terms import PolicySpec, PromptName


class Config(PiConfig):
    """Section `policy` for pi0."""

    prompt: ClassVar[PromptName] = "pi0"

    name: Literal["pi0"]
    max_state_dim: Annotated[int, Field(gt=0)]
    """Width of the state projection; the data's state is filled up with zeros (32 in the published weights)."""


class Pi0(PiPolicy):
    """See the module's docstring."""

    def __init__(self, cfg: Config, spec: PolicySpec) -> None:
        super().__init__(cfg, spec, adaptive=False)
        width = cfg.expert.width
        self.state_in = nn.Linear(cfg.max_state_dim, width)
        self.action_time_in, self.action_time_out = nn.Linear(2 * width, width), nn.Linear(width, width)

    def suffix(
        self, context: Prefix, noisy_actions_QHA: Float[Tensor, "Q H A"], time_QHD: Float32[Tensor, "Q H D"]
    ) -> Suffix:
        """A state token, which does not see the actions, and the action tokens."""
        actions = self.action_in(noisy_actions_QHA)
        joined = torch.cat([actions, time_QHD.to(actions.dtype)], dim=-1)
        actions = self.action_time_out(functional.silu(self.action_time_in(joined)))
        missing = self.state_in.in_features - context.state_QS.shape[1]
        state = self.state_in(functional.pad(context.state_QS, (0, missing)))
        block = (torch.arange(1 + actions.shape[1], device=actions.device) > 0).long()
        return Suffix(torch.cat([state.unsqueeze(1), actions], dim=1), None, block)


def make_spec(cfg: Config, interface: Interface) -> PolicySpec:
    """The policy's interface to this data; raises ConfigError for what cannot work together."""
    if interface.state_dim > cfg.max_state_dim:
        raise ConfigError(
            f"policy.max_state_dim: expected at least the {interface.state_dim} state dimensions of the data, found "
            f"{cfg.max_state_dim}. Raise it."
        )
    return pi.make_spec(cfg, interface)


def build(cfg: Config, spec: PolicySpec) -> tuple[Pi0, FrozenEncoder | None]:
    """A freshly initialised policy; its frozen parts, if any, are inside it."""
    return Pi0(cfg, spec), None
