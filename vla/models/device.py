"""The device that `execution.device` names, for training workers and for everything that acts with a policy."""

import torch

from vla.errors import LaunchError
from vla.execution import Device


def choose_device(name: Device, *, local_rank: int = 0, local_workers: int = 1) -> torch.device:
    """`auto` takes GPUs where there is one for each worker on this machine, `cuda` insists on that.

    On a GPU float32 then means float32 in convolutions too, as it does in matrix products by torch's default.
    """
    found = torch.cuda.device_count()
    if name == "cuda" and found < local_workers:
        raise LaunchError(
            f"execution.device: expected a GPU for each of {local_workers} workers on this machine, found {found}. "
            f"Lower execution.workers (torchrun: --nproc_per_node), or set the device to auto or cpu."
        )
    if name == "cpu" or found < local_workers:
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", local_rank)
