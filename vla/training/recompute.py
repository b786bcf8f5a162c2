"""Activation checkpointing: blocks of a policy keep their inputs alone and are computed again in the backward pass.

Memory for about a third more computing. The second pass repeats the first one's arithmetic, dropout and precision
included, so it changes no number.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from vla.errors import ConfigError
from vla.models.policy import Policy


def recompute_blocks(policy: Policy[Any]) -> None:
    """Make the policy's blocks forget what they compute on the way; names of weights stay as they are."""
    blocks = policy.checkpointed_blocks()
    if not blocks:
        raise ConfigError(
            f"execution.activation_checkpointing: expected a policy that lists its blocks, found "
            f"{type(policy).__name__}, which lists none. Set it to false."
        )
    for block in blocks:
        # The instance's own forward, so that neither the module tree nor a name in it changes.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


@contextmanager
def nothing_recomputed(policy: Policy[Any]) -> Iterator[None]:
    """While this is open, the policy's blocks keep what they compute, as without `recompute_blocks`."""
    replaced = {
        block: block.__dict__.pop("forward") for block in policy.checkpointed_blocks() if "forward" in block.__dict__
    }
    try:
        yield
    finally:
        for block, forward in replaced.items():
            block.forward = forward
