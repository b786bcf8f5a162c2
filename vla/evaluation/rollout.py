"""Stage rollout: how often a bundle's policy succeeds in closed loop, on fixed seeds that no demonstration used.

The swapped control tells each task's policy another task's instruction. Its success should fall to nothing: a policy
that still succeeds knows the task by its scene and does not read. The tasks of the list are swapped in neighbouring
pairs, so list two tasks that share a scene side by side: there, the words alone decide.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag
from tqdm import tqdm

from vla import artifacts, config, registry
from vla.envs import EnvironmentSettings
from vla.errors import ConfigError
from vla.evaluation.closed_loop import Job, Outcome, Trial, Wave, play_in_processes
from vla.evaluation.metrics import wilson
from vla.evaluation.runner import PolicyRunner
from vla.execution import ExecutionConfig
from vla.models import bundle as bundles
from vla.models.bundle import Bundle
from vla.registry import did_you_mean

logger = logging.getLogger(__name__)

WAVE = 8
"""Tasks played side by side, at most: each has an environment of tens of megabytes in every process."""
NOT_PLAYED = "rollout.environment is none: this dataset has no simulator, so nothing was played.\n"


class RolloutConfig(config.Config):
    """Section `rollout`."""

    environment: str
    """File name in vla/envs."""
    tasks: tuple[str, ...]
    """Neighbours swap their instructions in the swapped control."""
    episodes: Annotated[int, Field(gt=0)]
    """Rollouts per task."""
    swapped_episodes: Annotated[int, Field(ge=0)]
    """Rollouts per task with another task's instruction."""
    execute_horizon: Annotated[int, Field(gt=0)]
    """Control steps executed of each predicted chunk."""
    settings: EnvironmentSettings
    first_seed: Annotated[int, Field(ge=0)]
    """The episodes of a task have the seeds first_seed, first_seed + 1, ..."""


class NoRollout(config.Config):
    """Section `rollout` of recordings without a simulator; settings of another environment may stay in it."""

    model_config = ConfigDict(extra="ignore")

    environment: Literal["none"]


def _kind(section: Any) -> str:
    """Which of the two classes a section is."""
    environment = section.get("environment") if isinstance(section, dict) else getattr(section, "environment", None)
    return NoRollout.__name__ if environment == "none" else RolloutConfig.__name__


class Config(config.Config):
    """What the stage reads."""

    execution: ExecutionConfig
    rollout: Annotated[
        Annotated[RolloutConfig, Tag(RolloutConfig.__name__)] | Annotated[NoRollout, Tag(NoRollout.__name__)],
        Discriminator(_kind),
    ]
    seed: int


def run(cfg: Config, *, policy: Path, videos: Path, metrics: Path) -> None:
    """Play the rollouts of the bundle `policy`; write a film per task into `videos`, and the success rates."""
    bundle = bundles.load(policy)
    if isinstance(cfg.rollout, NoRollout):
        with artifacts.new_directory(videos) as folder:
            (folder / "README.txt").write_text(NOT_PLAYED, encoding="utf-8")
        artifacts.write_json(metrics, {"bundle_digest": bundle.digest, "status": "skipped", **summary([], {})})
        logger.info("skipped, rollout.environment is none")
        return
    module: Any = registry.find("envs", cfg.rollout.environment)
    check_tasks(cfg.rollout, module.tasks())
    PolicyRunner(bundle, execute_horizon=cfg.rollout.execute_horizon, seed=cfg.seed)  # refuses a wrong horizon early
    instructions = {task: _instruction(bundle, module, task, cfg.rollout.settings) for task in cfg.rollout.tasks}
    waves = plan(cfg.rollout, instructions)
    outcomes: list[Outcome] = []
    with (
        artifacts.new_directory(videos) as folder,
        tqdm(total=sum(map(len, waves)), desc="rollouts", disable=None) as bar,
    ):
        job = Job(
            policy=policy.resolve(),
            environment=cfg.rollout.environment,
            settings=cfg.rollout.settings,
            execute_horizon=cfg.rollout.execute_horizon,
            seed=cfg.seed,
            device=cfg.execution.device,
            videos=folder.resolve(),
        )
        for played in play_in_processes(job, waves, workers=cfg.execution.rollout_workers):
            outcomes += played
            bar.update(len(played))
    result = {
        "bundle_digest": bundle.digest,
        "status": "done",
        "protocol": protocol(cfg.rollout),
        **summary(outcomes, instructions),
    }
    artifacts.write_json(metrics, result)
    _log(result)


def check_tasks(cfg: RolloutConfig, offered: Sequence[str]) -> None:
    """Raise ConfigError when a task is unknown or named twice, or when one task alone cannot be swapped."""
    for task in cfg.tasks:
        if task not in offered:
            near = did_you_mean(task, list(offered))
            raise ConfigError(f"rollout.tasks: expected tasks of vla/envs/{cfg.environment}.py, found {task!r}.{near}")
    if len(set(cfg.tasks)) < len(cfg.tasks) or not cfg.tasks:
        raise ConfigError(f"rollout.tasks: expected different tasks, found {list(cfg.tasks)}. Name each once.")
    if cfg.swapped_episodes and len(cfg.tasks) == 1:
        raise ConfigError(
            "rollout.swapped_episodes: expected 0 with one task, which has no other task's instruction to be told, "
            f"found {cfg.swapped_episodes}. Set it to 0 or name a second task."
        )


def protocol(cfg: RolloutConfig) -> dict[str, Any]:
    """What has to be equal for two policies' success rates to be compared.

    The order of the tasks and the control are not in it: they do not decide the success. Nor is the number of Euler
    steps, which belongs to a policy.
    """
    names = ("environment", "episodes", "execute_horizon", "first_seed", "settings")
    return {"tasks": sorted(cfg.tasks), **{name: cfg.plain()[name] for name in names}}


def swap(tasks: Sequence[str]) -> dict[str, str]:
    """Task -> the task whose instruction it is told: neighbours in pairs, the last three in a circle when odd."""
    pairs = [tasks[start : start + 2] for start in range(0, len(tasks), 2)]
    if len(pairs[-1]) == 1:
        last = pairs.pop()
        pairs[-1] = [*pairs[-1], *last]
    return {task: group[(place + 1) % len(group)] for group in pairs for place, task in enumerate(group)}


def plan(cfg: RolloutConfig, instructions: dict[str, str]) -> list[Wave]:
    """The waves to play: the i-th rollout of up to `WAVE` tasks each, then their swapped ones."""
    told = {task: instructions[other] for task, other in swap(cfg.tasks).items()} if cfg.swapped_episodes else {}
    waves = []
    for start in range(0, len(cfg.tasks), WAVE):
        tasks = cfg.tasks[start : start + WAVE]
        for texts, count in ((instructions, cfg.episodes), (told, cfg.swapped_episodes)):
            swapped = texts is told
            waves += [
                tuple(
                    Trial(task, texts[task], cfg.first_seed + index, swapped, filmed=index == 0 and not swapped)
                    for task in tasks
                )
                for index in range(count)
            ]
    return waves


def summary(outcomes: Sequence[Outcome], instructions: dict[str, str]) -> dict[str, Any]:
    """The figures of rollout.json: overall, per task, and the swapped control."""
    told = [outcome for outcome in outcomes if not outcome.trial.swapped]
    swapped = [outcome for outcome in outcomes if outcome.trial.swapped]
    return {**_rates(told, instructions), "swapped": _rates(swapped, instructions)}


def _rates(outcomes: Sequence[Outcome], instructions: dict[str, str]) -> dict[str, Any]:
    """Every task has as many rollouts, so the success over all rollouts is the mean over tasks."""
    tasks = {}
    for task in instructions:
        own = [outcome for outcome in outcomes if outcome.trial.task == task]
        if own:
            steps = sum(outcome.steps for outcome in own) / len(own)
            tasks[task] = {"instruction": own[0].trial.instruction, **_rate(own), "mean_steps": steps}
    overall = _rate(outcomes) if outcomes else {"success": None, "interval": None, "episodes": 0}
    return {"success": overall["success"], "interval": overall["interval"], "episodes": len(outcomes), "tasks": tasks}


def _rate(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    successes = sum(outcome.success for outcome in outcomes)
    return {
        "success": successes / len(outcomes),
        "successes": successes,
        "episodes": len(outcomes),
        "interval": list(wilson(successes, len(outcomes))),
    }


def _instruction(bundle: Bundle, module: Any, task: str, settings: EnvironmentSettings) -> str:
    """The task's instruction, after checking that the environment is one of the bundle's robot."""
    environment = module.make(task, settings)
    spec = bundle.spec
    for what, expected, found in (
        ("action dimensions", spec.real_action_dim, environment.action_dim),
        ("state dimensions", spec.state_dim, environment.state_dim),
        ("views", set(spec.views), set(spec.views) & set(environment.views)),
    ):
        if expected != found:
            raise ConfigError(
                f"rollout.environment: {task}: expected the {what} of the bundle {bundle.path}, {expected}, "
                f"found {found}. Choose the environment that the demonstrations came from, or 'none'."
            )
    instruction: str = environment.instruction
    return instruction


def _log(result: dict[str, Any]) -> None:
    for task, row in result["tasks"].items():
        logger.info("%s %d/%d, %.0f steps", task, row["successes"], row["episodes"], row["mean_steps"])
    low, high = result["interval"]
    logger.info("success %.1f %% (95 %% interval %.1f to %.1f)", 100 * result["success"], 100 * low, 100 * high)
    if result["swapped"]["episodes"]:
        logger.info("with swapped instructions %.1f %%", 100 * result["swapped"]["success"])
