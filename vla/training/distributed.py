"""Where a worker runs, as the training loop sees it: a rank among others, a device and a way to agree.

The same loop runs in one process, under torchrun and under Ray Train; only this file and `launch.py` know which.
Small agreements (sums, stops) go over a gloo group on the CPU, so that they never wait for the accelerator.
"""

import os
import secrets
import signal
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vla.errors import LaunchError, WorkerHungError
from vla.execution import Device
from vla.models.device import choose_device

HUNG = ("Timed out waiting", "Application timeout")
LOST = ("Connection closed by peer", "Connection reset by peer")
"""Parts of what gloo says; it has no classes for them."""
PATIENCE = timedelta(minutes=30)


class PeerLostError(RuntimeError):
    """Another worker has ended, and says itself why."""

    words = "ends as another worker has ended"


@dataclass(slots=True)
class Context:
    """One worker's place in the job."""

    rank: int
    world_size: int
    device: torch.device
    control: dist.ProcessGroup | None
    """Gloo group for agreements; None in a single process."""
    stop_file: Path | None = None
    signalled: bool = field(default=False, init=False)
    """Whether this process was asked to stop by a signal."""

    @property
    def is_writer(self) -> bool:
        """Whether this worker writes checkpoints and metrics."""
        return self.rank == 0

    def wrap(self, policy: nn.Module) -> nn.Module:
        """The policy with gradients averaged over the ranks; itself in a single process."""
        if self.world_size == 1:
            return policy
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(policy, device_ids=devices, gradient_as_bucket_view=True)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over all ranks, in float64."""
        if self.control is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return [float(value) for value in tensor]

    def largest(self, value: float) -> float:
        """The largest of the ranks' values, on every rank."""
        values = [0.0] * self.world_size
        values[self.rank] = value
        return max(self.sum(values))

    def from_writer(self, value: int) -> int:
        """The writer's value, on every rank."""
        return int(self.sum([value if self.is_writer else 0])[0])

    def check_shared(self, folder: Path) -> None:
        """Raise LaunchError, on every rank, unless all see what the writer writes to `folder`."""
        # A name that nobody has looked for before: a network file system remembers for a while what was not there.
        mark = folder / f".seen-{self.from_writer(secrets.randbits(48)):x}"
        if self.is_writer:
            mark.touch()
        try:
            self.sum([0.0])
            self.check_all_see(folder, seen=mark.exists())
        finally:
            if self.is_writer:
                mark.unlink()

    def check_all_see(self, folder: Path, *, seen: bool) -> None:
        """Raise LaunchError, on every rank, unless all have `seen` what they must in `folder`."""
        blind = [0.0] * self.world_size
        blind[self.rank] = float(not seen)
        ranks = [str(rank) for rank, is_blind in enumerate(self.sum(blind)) if is_blind]
        if ranks:
            raise LaunchError(
                f"{folder}: expected a folder with the same files for all workers, found other ones "
                f"for rank {', '.join(ranks)}. Put the project on storage that all machines see under the same path."
            )

    def wants_stop(self) -> bool:
        """Whether somebody asked this worker to stop; ranks must agree on it before they act."""
        asked = self.stop_file is not None and self.is_writer and self.stop_file.exists()
        return self.signalled or asked

    @contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as requests to stop at the next step.

        Launchers pass Ctrl-C on, so a rank may get it twice.
        """

        def remember(_signal: int, _frame: FrameType | None) -> None:
            self.signalled = True

        before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def without_sync(module: nn.Module) -> AbstractContextManager[None]:
    """Skip the gradient exchange of a micro-batch that is not the last of its step."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def launched_by_torchrun() -> bool:
    """Whether torchrun started this process as one of its workers."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def single(device: Device) -> Context:
    """The context of a job of one process."""
    return Context(rank=0, world_size=1, device=choose_device(device), control=None)


@contextmanager
def torchrun(device: Device, *, timeout: timedelta = PATIENCE) -> Iterator[Context]:
    """The context of a torchrun worker, with its process group, whose ranks wait for each other for `timeout`."""
    place = {name: int(os.environ[name.upper()]) for name in ("local_rank", "local_world_size")}
    chosen = choose_device(device, local_rank=place["local_rank"], local_workers=place["local_world_size"])
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timeout)
    try:
        yield joined(chosen, timeout=timeout)
    finally:
        dist.destroy_process_group()


def joined(device: torch.device, *, timeout: timedelta = PATIENCE) -> Context:
    """The context of a worker whose process group exists (torchrun's or Ray's)."""
    is_gloo = dist.get_backend() == "gloo"
    control = dist.group.WORLD if is_gloo else dist.new_group(backend="gloo", timeout=timeout)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Context(rank=dist.get_rank(), world_size=dist.get_world_size(), device=device, control=control)


@contextmanager
def peers_explained(rank: int, *, timeout: timedelta) -> Iterator[None]:
    """Turn what gloo says of other ranks into words. NCCL ends the process itself, after the same time."""
    try:
        yield
    except RuntimeError as error:
        if any(part in str(error) for part in HUNG):
            raise WorkerHungError(
                f"execution.timeout_s: expected all workers at the same point within {timeout.total_seconds():g} s, "
                f"found rank {rank} waiting for another one in vain. Look for one that is slow or stuck in the logs "
                f"of the workers ('kill -USR1 PID' adds where each is), or raise it. Then run it again to go on."
            ) from error
        if any(part in str(error) for part in LOST):
            raise PeerLostError(f"rank {rank}: {PeerLostError.words}") from None
        raise
