"""A small action expert: action tokens attend to each other and to a context, and answer with their flow velocity."""

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from vla.models.attention import CrossBlock, time_features


class CrossAttentionExpert(nn.Module):
    """Denoises a chunk of H actions given context tokens; every action token has its own flow time."""

    def __init__(self, *, action_dim: int, action_horizon: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.embed_action = nn.Linear(action_dim, width)
        self.embed_position = nn.Parameter(0.02 * torch.randn(action_horizon, width))
        # Action and time are joined by an MLP, as in pi0 (arXiv:2410.24164, appendix B).
        self.join_time = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(CrossBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.to_velocity = nn.Linear(width, action_dim)

    def forward(
        self,
        noisy_actions_QHA: Float[Tensor, "Q H A"],
        time_QH: Float[Tensor, "Q H"],
        context_QND: Float[Tensor, "Q N D"],
        context_mask: Float[Tensor, "Q 1 1 N"] | None,
    ) -> Float32[Tensor, "Q H A"]:
        """Velocity d(noisy actions)/d(time)."""
        actions = self.embed_action(noisy_actions_QHA)
        time = time_features(time_QH, actions.shape[-1]).to(actions.dtype)
        x = self.join_time(torch.cat([actions, time], dim=-1)) + self.embed_position
        for block in self.blocks:
            x = block(x, context_QND, context_mask)
        # The sum of the blocks is float32 under autocast too, and a velocity narrower than that loses small errors.
        with torch.autocast(x.device.type, enabled=False):
            return self.to_velocity(self.norm(x)).float()
