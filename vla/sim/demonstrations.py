"""Demonstrations by Meta-World's scripted experts, generated in parallel.

The hand is pushed off the expert's path by noise while the expert's own action is recorded: the data then shows how to
come back, which a policy needs because it drifts. Failed episodes are dropped. Everything follows from the seed, so
the number of processes changes nothing but the time.
"""

import io
import multiprocessing
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from metaworld.policies import ENV_POLICY_MAP
from metaworld.policies.policy import Policy
from PIL import Image
from pydantic import Field, field_validator
from tqdm import tqdm

from vla import keyed
from vla.config import Config
from vla.errors import DataError
from vla.registry import did_you_mean
from vla.sim.cameras import Camera, Frame
from vla.sim.world import MAX_STEPS, VIEWS, World, tasks

Extra = Literal["depth", "segmentation", "cameras"]
MAX_ATTEMPTS = 4
"""Attempts per wanted episode after which a task counts as too hard for its expert."""


class DemonstrationsConfig(Config):
    """Section `download.sim`."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Meta-World v3 tasks, for example `drawer-open-v3`."""
    episodes_per_task: Annotated[int, Field(gt=0)]
    image_size: tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]]
    """Rows, columns of each view."""
    max_steps: Annotated[int, Field(gt=1, le=MAX_STEPS)]
    """Control steps after which an attempt has failed."""
    noise: Annotated[float, Field(ge=0)]
    """Standard deviation of what is added to the executed motion; actions range over [-1, 1]."""
    extras: tuple[Extra, ...]
    """What is kept beside the colour images."""

    @field_validator("tasks")
    @classmethod
    def _known_and_distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in tasks():
                raise ValueError(f"{name!r} is no Meta-World v3 task.{did_you_mean(name, tasks())}")
        if len(set(names)) < len(names):
            raise ValueError("a task is listed twice")
        return names


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One successful episode of T steps: what was sensed before each action, and the expert's action."""

    task: str
    instruction: str
    state_TS: Float32[np.ndarray, "T S"]
    actions_TA: Float32[np.ndarray, "T A"]
    images: dict[str, list[bytes]]
    """View -> PNG files."""
    image_counts: dict[str, Int64[np.ndarray, "3 256"]]
    """View -> how often each value occurs per channel, for statistics."""
    extras: dict[str, np.ndarray]
    """Column name -> [T, ...]."""

    def __len__(self) -> int:
        return len(self.state_TS)


def generate(cfg: DemonstrationsConfig, *, seed: int, processes: int | None = None) -> Iterator[Demonstration]:
    """`episodes_per_task` successes of each task, in an order that depends on the arguments alone.

    Raises DataError when a task's expert fails too often.
    """
    missing = dict.fromkeys(cfg.tasks, cfg.episodes_per_task)
    tried = dict.fromkeys(cfg.tasks, 0)
    with (
        _workers(processes or os.cpu_count() or 1) as pool,
        tqdm(total=sum(missing.values()), desc="demonstrations", unit="episode", disable=None) as bar,
    ):
        while any(missing.values()):
            # Each round tries exactly as many as are missing, so that no success is thrown away.
            jobs = [(task, tried[task] + k) for task, count in missing.items() for k in range(count)]
            for task, count in missing.items():
                tried[task] += count
            layouts = [keyed.uid("demonstration", seed, task, attempt) for task, attempt in jobs]
            chunk = max(1, min(5, len(jobs) // 8))
            done = pool.map(record, [cfg] * len(jobs), [task for task, _ in jobs], layouts, chunksize=chunk)
            for demonstration in done:
                if demonstration is not None:
                    missing[demonstration.task] -= 1
                    bar.update()
                    yield demonstration
            _check_progress(cfg, missing, tried)


def record(cfg: DemonstrationsConfig, task: str, layout: int) -> Demonstration | None:
    """One attempt at the layout that the seed `layout` draws; None when the expert failed."""
    world, expert = _world(task, cfg.image_size), _expert(task)
    world.reset(layout)
    noise = cfg.noise * keyed.normal(layout, "exploration", shape=(cfg.max_steps, 3))
    states, actions, seen = [], [], _Seen(cfg.extras)
    for push in noise:
        wanted = _ask(expert, world)
        states.append(world.state)
        actions.append(np.clip(wanted, -1.0, 1.0))
        seen.add(world)
        # Added to what the expert asks for: a push matters near the goal, where the expert moves carefully.
        if world.step(wanted + np.append(push, np.float32(0.0))):
            return Demonstration(task, world.instruction, np.stack(states), np.stack(actions), *seen.columns())
    return None


class _Seen:
    """What the cameras saw in an episode, packed step by step."""

    def __init__(self, extras: tuple[Extra, ...]) -> None:
        self._extras = extras
        self._images: dict[str, list[bytes]] = {view: [] for view in VIEWS}
        self._counts = {view: np.zeros((3, 256), dtype=np.int64) for view in VIEWS}
        self._rows: dict[str, list[np.ndarray]] = {}

    def add(self, world: World) -> None:
        for view in VIEWS:
            frame = world.look(view)
            self._images[view].append(_png(frame.rgb))
            self._counts[view] += [np.bincount(channel, minlength=256) for channel in frame.rgb.reshape(-1, 3).T]
            for name, values in _extra_columns(self._extras, frame, world.camera(view)).items():
                self._rows.setdefault(f"observation.{name}.{view}", []).append(values)

    def columns(self) -> tuple[dict[str, list[bytes]], dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Images, value counts and extras, as in Demonstration."""
        return self._images, self._counts, {name: np.stack(rows) for name, rows in self._rows.items()}


def _extra_columns(extras: tuple[Extra, ...], frame: Frame, camera: Camera) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    if "depth" in extras:
        columns["depth"] = frame.depth
    if "segmentation" in extras:
        columns["segmentation"] = frame.segmentation
    if "cameras" in extras:
        columns["intrinsics"] = camera.intrinsics.astype(np.float32)
        columns["pose"] = camera.pose.astype(np.float32)
    return columns


def _expert(task: str) -> Policy:
    expert: Policy = ENV_POLICY_MAP[task]()  # type: ignore[abstract]  # the map holds its subclasses
    return expert


def _ask(expert: Policy, world: World) -> Float32[np.ndarray, "4"]:
    """What the expert wants, which may exceed [-1, 1]."""
    with warnings.catch_warnings():
        # The experts ask for more than the range on purpose, and Meta-World warns each time.
        warnings.filterwarnings("ignore", message="Constant")
        return expert.get_action(world.observation).astype(np.float32)


@lru_cache(maxsize=4)
def _world(task: str, image_size: tuple[int, int]) -> World:
    """Building a world costs as much as an episode, so a process keeps the last few."""
    return World(task, image_size=image_size)


def _png(image: UInt8[np.ndarray, "Y X 3"]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG", compress_level=6)
    return stream.getvalue()


def _check_progress(cfg: DemonstrationsConfig, missing: dict[str, int], tried: dict[str, int]) -> None:
    for task, count in missing.items():
        if count and tried[task] + count > MAX_ATTEMPTS * cfg.episodes_per_task:
            raise DataError(
                f"download.sim: expected {cfg.episodes_per_task} successes of {task}, "
                f"found {cfg.episodes_per_task - count} in {tried[task]} attempts. "
                f"Lower download.sim.noise, raise download.sim.max_steps or choose another task."
            )


@contextmanager
def _workers(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh single-threaded processes that end with this one, even when it is killed."""
    previous = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        if previous is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = previous


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101  # this runs in workers only

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
