"""Equal bits from equal inputs on a GPU, where the fastest kernels add in an order that differs from run to run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def deterministic(*, on: bool) -> Iterator[None]:
    """Let torch take deterministic kernels alone, and refuse operations that have none; on the CPU all are.

    To be entered before a GPU computes anything: cuBLAS reads its setting once.
    """
    if not on:
        yield
        return
    os.environ.setdefault(WORKSPACE, ":4096:8")
    algorithms, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(mode=True)
    # Trying kernels out picks whichever happens to be fastest.
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=algorithms)
        torch.backends.cudnn.benchmark = benchmark
