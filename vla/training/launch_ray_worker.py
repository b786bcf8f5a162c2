"""A Ray worker of a training that `vla train` started: what `launch_ray` sends to each."""

from typing import Any

import ray.train.torch

from vla.training import distributed, launch
from vla.training.job import Job


def work(config: dict[str, Any]) -> None:
    """Run in a process whose group of ranks Ray has set up."""
    job = Job.parse(config["job"], where="job")
    # A retry cannot mend what the user has to.
    launch.raise_failure(job, config["driver"])
    context = distributed.joined(ray.train.torch.get_device(), timeout=job.cfg.execution.timeout)
    launch.work(config["job"], config["driver"], context)
