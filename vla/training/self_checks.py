"""What a training checks of itself before its first step: mistakes that no loss curve would show."""

from collections.abc import Iterable

from vla.models.policy import Batch
from vla.training.distributed import Context


def check_ranks_differ(context: Context, batches: Iterable[Batch]) -> None:
    """Compare the noise of the first batches: ranks that share it would count the same samples several times over."""
    noise = [0.0] * context.world_size
    noise[context.rank] = sum(float(batch.noise_BPHA.double().sum()) for batch in batches)
    if len(set(context.sum(noise))) < context.world_size:
        raise AssertionError(f"expected noise that differs between ranks, found {noise[context.rank]} on several")
