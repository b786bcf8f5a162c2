"""`python -m vla.training.launch_ray JOB`: training under Ray Train, in a local Ray or the cluster of RAY_ADDRESS.

The process is started by `vla train` in a session of its own and ends with it, together with a local Ray.
"""

import json
import logging
import os
import secrets
import sys
from pathlib import Path
from typing import Any

# Read when ray is imported: no statistics, workers stay in the project's folder, and reports do not wait for a poll.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
if "RAY_ADDRESS" not in os.environ:
    # Ray's servers listen on every interface and run what they are sent: only this training's processes may ask.
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

import ray
import ray.train
import ray.train.torch

from vla import lifeline
from vla.errors import LaunchError, UserError
from vla.training import distributed, launch
from vla.training.job import Job


def main() -> int:
    """Run the job; returns the exit code. A user's error is left for the process that waits."""
    values = json.loads(Path(sys.argv[1]).read_text())
    lifeline.watch_process(values["driver"]["pid"], values["driver"]["started"], whole_group=True)
    job = Job.parse(values["job"], where="job")
    try:
        run(job, values)
    except UserError as error:
        launch.record_failure(job, error)
        return 2
    return 0


def run(job: Job, config: dict[str, Any]) -> None:
    """Run the job's workers on Ray and wait for them; a lost worker restarts from the last checkpoint."""
    execution = job.cfg.execution
    _connect({name: os.environ[name] for name in ("PYTHONPATH", "OMP_NUM_THREADS")}, scratch=config["scratch"])
    try:
        enough_gpus = ray.cluster_resources().get("GPU", 0) >= execution.workers
        use_gpu = execution.device == "cuda" or (execution.device == "auto" and enough_gpus)
        _check_resources(execution.workers, use_gpu=use_gpu)
        trainer = ray.train.torch.TorchTrainer(
            _worker,
            train_loop_config={name: config[name] for name in ("job", "driver")},
            scaling_config=ray.train.ScalingConfig(num_workers=execution.workers, use_gpu=use_gpu),
            run_config=ray.train.RunConfig(
                name="train",
                storage_path=str(job.state / "ray"),
                failure_config=ray.train.FailureConfig(max_failures=execution.max_failures),
            ),
        )
        trainer.fit()
    except ray.train.TrainingFailedError:
        launch.raise_failure(job)
        raise
    finally:
        ray.shutdown()


def _worker(config: dict[str, Any]) -> None:
    """Runs in a Ray worker process, whose process group Ray has set up."""
    job = Job.parse(config["job"], where="job")
    # A retry cannot mend what the user has to.
    launch.raise_failure(job)
    device = ray.train.torch.get_device()
    launch.work(config["job"], config["driver"], distributed.joined(device))


def _connect(environment: dict[str, str], *, scratch: str) -> None:
    """A Ray of our own, with its files in `scratch`, unless RAY_ADDRESS names a cluster.

    Never the one that somebody else left running.
    """
    quiet: dict[str, Any] = {
        "logging_level": logging.WARNING,
        "log_to_driver": False,
        "runtime_env": {"env_vars": environment},
    }
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, **quiet)
        return
    ray.init(address="local", include_dashboard=False, _temp_dir=scratch, **quiet)


def _check_resources(workers: int, *, use_gpu: bool) -> None:
    """Ray would wait for ever for what the cluster has not."""
    kind = "GPU" if use_gpu else "CPU"
    found = ray.cluster_resources().get(kind, 0)
    if found < workers:
        raise LaunchError(
            f"execution.workers: expected at most {found:.0f}, the number of {kind}s that Ray has, found {workers}. "
            f"Lower it, or set RAY_ADDRESS to a larger cluster."
        )


if __name__ == "__main__":
    raise SystemExit(main())
