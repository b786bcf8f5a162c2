"""How many bytes are alive while a policy runs, without running it.

Under torch's fake tensors an operation answers with shapes alone, so the policies of gigabytes are measured in
megabytes, and on the very path that training takes: autocast, activation checkpointing and the backward pass. What is
counted is every storage between its making and the moment when nothing holds it any more, whoever holds it.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


@cache
def shapes_alone() -> FakeTensorMode:
    """While this context is open, tensors are made and computed with as shapes, without memory for their values.

    It is the same one every time, because a tensor of another one would be taken in as a copy, and counted again.
    """
    return FakeTensorMode(allow_non_fake_inputs=True)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations make while this is open; `known` ones do not count."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        """Bytes that are alive."""
        self.peak = 0
        """Most of them at once."""
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size
