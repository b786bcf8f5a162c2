"""`python -m vla.training.launch_ray JOB`: training under Ray Train, in a local Ray or the cluster of RAY_ADDRESS.

The process is started by `vla train` in a session of its own and ends with it, together with a local Ray.
"""

import json
import logging
import os
import secrets
import sys
from collections.abc import Callable, Mapping
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
import ray.exceptions
import ray.train
import ray.train.torch

from vla import lifeline
from vla.errors import LaunchError, UserError
from vla.execution import ExecutionConfig
from vla.training import distributed, launch, launch_settings, lost_worker
from vla.training.job import Job

SHARED = ("PYTHONPATH", "OMP_NUM_THREADS", *launch_settings.DEFAULTS)
"""What workers need before they import anything; Ray writes it to its logs."""
PRIVATE = ("VLA_ASSETS", "HF_HUB_OFFLINE", "HF_HOME", "HF_TOKEN")
"""Where workers find files of other projects, and as whom; in no log, and on no page of Ray."""

LOG_LINES = 40


def main() -> int:
    """Run the job; returns the exit code. A user's error is left for the process that waits."""
    values = json.loads(Path(sys.argv[1]).read_text())
    lifeline.watch_process(values["driver"]["pid"], values["driver"]["started"], whole_group=True)
    job = Job.parse(values["job"], where="job")
    try:
        run(job, values)
    except UserError as error:
        launch.record_failure(job, error, values["driver"])
        return 2
    return 0


def run(job: Job, config: dict[str, Any]) -> None:
    """Run the job's workers on Ray and wait for them; a lost worker restarts from the last checkpoint."""
    execution = job.cfg.execution
    _connect({name: os.environ[name] for name in SHARED if name in os.environ}, scratch=config["scratch"])
    try:
        use_gpu = takes_gpus(execution, ray.cluster_resources())
        _say_what_is_busy(execution, ray.available_resources(), use_gpu=use_gpu)
        trainer = ray.train.torch.TorchTrainer(
            _worker({name: os.environ[name] for name in PRIVATE if name in os.environ}),
            train_loop_config={name: config[name] for name in ("job", "driver")},
            scaling_config=ray.train.ScalingConfig(num_workers=execution.workers, use_gpu=use_gpu),
            torch_config=ray.train.torch.TorchConfig(timeout_s=execution.timeout_s),
            run_config=ray.train.RunConfig(
                name="train",
                storage_path=str(job.state / "ray"),
                failure_config=ray.train.FailureConfig(max_failures=execution.max_failures),
            ),
        )
        trainer.fit()
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        launch.raise_failure(job, config["driver"])
        _show_logs(error, job.state_directory.logs)
        raise LaunchError(explained(error, execution.max_failures, logs=str(job.state_directory.logs))) from error
    finally:
        ray.shutdown()


def explained(error: Exception, max_failures: int, *, logs: str) -> str:
    """One message about the last of the failures, of those workers that did not just lose another one."""
    if not isinstance(error, ray.train.WorkerGroupError):
        return (
            f"ray: expected a training that finishes, found that Ray lost it: {_in_short(error)}. {lost_worker.AGAIN}"
        )
    found = "; ".join(f"rank {rank}: {_in_short(failure)}" for rank, failure in causes(error.worker_failures).items())
    return (
        f"ray: expected workers that finish, found that they failed {max_failures + 1} times "
        f"(execution.max_failures {max_failures}), the last time {found}. The logs of the workers are in "
        f"{logs}. A worker that is killed has most often run out of memory. {lost_worker.AGAIN}"
    )


def causes(failures: Mapping[int, Exception]) -> Mapping[int, Exception]:
    """Those that are not just a consequence of another worker's."""
    lost = distributed.PeerLostError.words
    return {rank: failure for rank, failure in failures.items() if lost not in str(failure)} or failures


def _in_short(failure: Exception) -> str:
    """The last line of a traceback; the first line of anything else, with what it is."""
    lines = str(failure).strip().splitlines() or ["no message"]
    return lines[-1] if "Traceback" in str(failure) else f"{type(failure).__name__}: {lines[0].rstrip('.')}"


def _show_logs(error: Exception, logs: Path) -> None:
    """What the workers at fault have written last, as Ray keeps their messages to itself."""
    for rank in causes(error.worker_failures) if isinstance(error, ray.train.WorkerGroupError) else ():
        file = logs / f"rank{rank}.log"
        if file.is_file():
            sys.stderr.writelines(f"[rank{rank}] {line}\n" for line in file.read_text().splitlines()[-LOG_LINES:])


def _worker(private: Mapping[str, str]) -> Callable[[dict[str, Any]], None]:
    """What runs in a Ray worker process. It travels as code with its values, which Ray does not look into."""

    def work(config: dict[str, Any]) -> None:
        os.environ.update(private)
        # Only now: the Hub's client reads its variables when it is imported.
        from vla.training import launch_ray_worker

        launch_ray_worker.work(config)

    return work


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
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ray.exceptions.AuthenticationError) as error:
            raise LaunchError(
                f"RAY_ADDRESS: expected a Ray cluster that lets this training in, found {_in_short(error)}. Start it, "
                f"and set RAY_AUTH_MODE and RAY_AUTH_TOKEN as it has them."
            ) from error
        return
    ray.init(address="local", include_dashboard=False, _temp_dir=scratch, **quiet)


def takes_gpus(execution: ExecutionConfig, found: Mapping[str, float]) -> bool:
    """Whether each worker gets a GPU of the cluster, which has `found` of each kind of resource.

    Raises LaunchError when there are too few of what workers need, which Ray would wait for without end.
    """
    use_gpu = execution.device == "cuda" or (execution.device == "auto" and found.get("GPU", 0) >= execution.workers)
    kind = "GPU" if use_gpu else "CPU"
    if found.get(kind, 0) < execution.workers:
        raise LaunchError(
            f"execution.workers: expected at most {found.get(kind, 0):.0f}, the number of {kind}s that Ray has, found "
            f"{execution.workers}. Lower it, or set RAY_ADDRESS to a larger cluster."
        )
    return use_gpu


def _say_what_is_busy(execution: ExecutionConfig, free: Mapping[str, float], *, use_gpu: bool) -> None:
    """In a cluster with other work the workers may have to wait for it."""
    kind = "GPU" if use_gpu else "CPU"
    if free.get(kind, 0) < execution.workers:
        sys.stderr.write(
            f"ray: waiting until {execution.workers} {kind}s are free, of which others leave {free.get(kind, 0):.0f}\n"
        )


if __name__ == "__main__":
    raise SystemExit(main())
