"""Two ranks that exchange gradients, each in a process forked from the test's."""

import multiprocessing
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vla.training import distributed
from vla.training.distributed import Context

FORK = multiprocessing.get_context("fork")


def answers(act: Callable[[Context], Any], folder: Path) -> list[Any]:
    """What `act` returns on each of two ranks."""
    queue = FORK.Queue()

    def rank(number: int) -> None:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2, timeout=timedelta(seconds=60)
        )
        queue.put((number, act(distributed.joined(torch.device("cpu")))))
        queue.close()
        queue.join_thread()
        os._exit(0)

    ranks = [FORK.Process(target=rank, args=(number,)) for number in range(2)]
    for each in ranks:
        each.start()
    found = dict(queue.get(timeout=60) for _ in ranks)
    for each in ranks:
        each.join()
    return [found[number] for number in range(2)]
