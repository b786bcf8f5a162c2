"""What ranks agree on, and what they say of each other, in real processes."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ranks import answers
from torch import nn

from vla.errors import LaunchError
from vla.training import distributed
from vla.training.distributed import Context, PeerLostError

PATIENCE = timedelta(seconds=2)


class Small(nn.Module):
    """A weight that learns and a larger one that is frozen; both begin with the rank's own number."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.learns = nn.Parameter(torch.full((2, 3), float(rank)))
        self.rests = nn.Parameter(torch.full((100,), 5.0), requires_grad=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return (self.learns @ values).sum() + self.rests.sum()


def test_ranks_begin_with_the_writer_s_weights_and_exchange_those_that_learn(tmp_path):
    def act(context: Context) -> Any:
        policy = Small(context.rank + 7)
        module = context.wrap(policy)
        begun = policy.learns.detach().clone().unique().tolist()
        module(torch.full((3,), float(context.rank))).backward()
        size = module._get_ddp_logging_data()["total_parameter_size_bytes"]
        same_memory = module.gradient_as_bucket_view and not module.find_unused_parameters
        return begun, policy.learns.grad.unique().tolist(), policy.rests.grad, size, same_memory

    # Gradients 0 and 1 average to a half; 2 x 3 numbers of 4 bytes are exchanged.
    assert answers(act, tmp_path) == [([7.0], [0.5], None, 24, True)] * 2


def said_by_the_first(act_of_second: Callable[[], None], folder: Path) -> tuple[str, str, float]:
    def act(context: Context) -> Any:
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
        context.control = control
        context.sum([0.0])
        if context.rank == 1:
            act_of_second()
            return None
        started = time.monotonic()
        try:
            with distributed.peers_explained(0, timeout=PATIENCE):
                context.sum([1.0])
        except (LaunchError, PeerLostError) as error:
            return type(error).__name__, str(error), time.monotonic() - started

    return answers(act, folder)[0]


def test_a_rank_waits_for_a_stuck_one_no_longer_than_it_is_told(tmp_path):
    kind, message, seconds = said_by_the_first(lambda: time.sleep(5), tmp_path)
    assert kind == "WorkerHungError"
    assert message.startswith("execution.timeout_s: expected all workers at the same point within 2 s, found rank 0")
    assert 1.5 < seconds < 5


def test_a_rank_says_that_another_one_has_ended(tmp_path):
    kind, message, _ = said_by_the_first(lambda: None, tmp_path)
    assert (kind, message) == ("PeerLostError", "rank 0: ends as another worker has ended")


def test_a_folder_that_is_not_the_same_for_all_ranks_is_named_by_each(tmp_path):
    def act(context: Context) -> str:
        context.check_shared(tmp_path)
        own = tmp_path / "disk" / str(context.rank)
        own.mkdir(parents=True)
        try:
            context.check_shared(own)
        except LaunchError as error:
            return str(error).replace(str(own), "FOLDER")
        return "shared"

    message = (
        "FOLDER: expected a folder with the same files for all workers, found other ones for rank 1. "
        "Put the project on storage that all machines see under the same path."
    )
    assert answers(act, tmp_path) == [message] * 2
    assert list(tmp_path.rglob(".seen*")) == []
