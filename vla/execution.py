"""Section `execution`: where and how often, never what. No stage lists it under `params:`: a change reruns nothing."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from vla.config import Config

Device = Literal["auto", "cpu", "cuda"]
Count = Annotated[int, Field(gt=0)]


class ExecutionConfig(Config):
    """How the stages use this machine."""

    launcher: Literal["ray", "torchrun", "local"]
    workers: Count
    """Processes that train; their gradients are summed."""
    micro_batch: Count
    """Samples per forward pass of one training process."""
    device: Device
    """`auto` takes GPUs where there is one for each worker, else the CPU; `cuda` insists on them."""
    activation_checkpointing: bool
    """Training keeps less for the backward pass and computes it again: memory for time, and no change of any number."""
    threads: Count
    """CPU threads per process."""
    log_every: Count
    """Optimizer steps between two log lines."""
    checkpoint_every: Count
    validate_every: Count
    record_batches: bool
    """Whether every step adds `batch_digest` to the metrics: a number for all samples of its batch with their noise,
    flow times and augmentation, equal on any number of workers, machine and day."""
    keep_checkpoints: Count
    """The newest ones, of which there is room for one more while it is written."""
    keep_every: Count | None
    """Steps; the first checkpoint at or after each multiple stays until the training's state is removed."""
    max_failures: Annotated[int, Field(ge=0)]
    """Lost workers that Ray replaces before it gives up; each time training goes on from the last checkpoint."""
    timeout_s: Count
    """Seconds that training processes wait for each other, at an exchange, before they end: more than the slowest
    checkpoint, validation or first batch takes."""
    cache_bytes: Count
    """Limit of the decoded frames that are kept: on disk in the order full, in memory by all workers in blocks."""
    prefetch: Annotated[int, Field(ge=0)]
    """Batches that each training process makes ahead in the background; 0 makes them when they are needed."""
    decode_threads: Count
    """Threads of each training process that decode in the order blocks."""
    rollout_workers: Count
    """Processes that play rollouts."""

    @property
    def timeout(self) -> timedelta:
        """`timeout_s` as torch takes it."""
        return timedelta(seconds=self.timeout_s)
