"""The weights that training never changes: checkpoints name them by one digest in place of holding them again."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def frozen_parameters(policy: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter that takes no gradient, under each of its names; buffers may change, so they do not count."""
    return {name: value for name, value in policy.named_parameters(remove_duplicate=False) if not value.requires_grad}


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, whatever the order and the device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
