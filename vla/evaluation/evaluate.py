"""Stage evaluate: how far a bundle's predicted actions are from the recorded ones, on held-out episodes.

The error is compared with that of always predicting the train split's mean action, each dimension in units of its
standard deviation there: a number that policies with other normalisation can be compared by. It does not rank
policies by success (an averaging head has the lower error and fails in closed loop): the stage rollout does that.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float32
from pydantic import Field
from tqdm import tqdm

from vla import artifacts, config
from vla.action_errors import ActionScale, ErrorSums, recorded_actions
from vla.data.episodes import EpisodeTable
from vla.data.manifest import Manifest
from vla.data.sources import DataConfig, open_dataset
from vla.data.windows import recorded_chunks
from vla.errors import DataError
from vla.evaluation import playback
from vla.evaluation import report as reporting
from vla.evaluation.metrics import error_ratio, total
from vla.evaluation.playback import PlayedEpisode
from vla.execution import ExecutionConfig
from vla.models import bundle as bundles
from vla.models.bundle import Bundle
from vla.models.device import choose_device
from vla.normalization import Statistics
from vla.terms import DatasetSchema

logger = logging.getLogger(__name__)

PREDICTIONS = pa.schema(
    [
        ("episode_id", pa.int64()),
        ("step", pa.int64()),
        ("instruction", pa.string()),
        ("action", pa.list_(pa.float32())),  # recorded, raw units
        ("predicted_action", pa.list_(pa.float32())),  # first of the predicted chunk
    ]
)


class EvaluateConfig(config.Config):
    """Section `evaluate`."""

    batch_size: Annotated[int, Field(gt=0)]
    """Episodes played side by side; decides speed and memory, not results."""
    num_steps: Annotated[int, Field(gt=0)]
    """Euler steps from noise to actions."""
    plotted_episodes: Annotated[int, Field(ge=0)]


class Config(config.Config):
    """What the stage reads."""

    data: DataConfig
    evaluate: EvaluateConfig
    execution: ExecutionConfig
    seed: int


def run(
    cfg: Config, *, policy: Path, dataset: Path, episodes: Path, predictions: Path, report: Path, metrics: Path
) -> None:
    """Evaluate the bundle `policy` on the validation split; write predictions, report and metrics."""
    torch.set_num_threads(cfg.execution.threads)
    bundle = bundles.load(policy, device=choose_device(cfg.execution.device))
    table = EpisodeTable.read(episodes, "validation")
    data = open_dataset(cfg.data, dataset)
    check_fit(bundle, data.schema, where=str(dataset))
    errors = Errors(bundle)
    plotted: list[reporting.Trajectory] = []
    wanted = spread_over_tasks(table, cfg.evaluate.plotted_episodes)
    played = playback.play(
        bundle,
        dataset=data,
        table=table,
        side_by_side=cfg.evaluate.batch_size,
        num_steps=cfg.evaluate.num_steps,
        seed=cfg.seed,
    )
    with (
        _prediction_file(predictions) as writer,
        tqdm(total=len(table), desc="evaluating", unit="episode", disable=None) as bar,
    ):
        for episode, chunks_THA in played:
            errors.add(episode, chunks_THA)
            writer.write_table(_prediction_rows(episode, chunks_THA[:, 0]))
            if episode.row in wanted:
                plotted.append(reporting.Trajectory.of(episode, chunks_THA[:, 0]))
            bar.update()
    result = {
        "bundle_digest": bundle.digest,
        "dataset_digest": Manifest.read(dataset).digest,
        "episodes": len(table),
        "steps": int(table.length_E.sum()),
        **errors.summary(),
    }
    reporting.write(
        report,
        result=result,
        baseline=errors.baseline_rows(),
        trajectories=plotted,
        names=bundle.config.action_names,
        recorded=_recorded(bundle),
    )
    artifacts.write_json(metrics, result)
    logger.info(
        "mean absolute error %.4f, of the mean action %.4f; error ratio %.3f on %d held-out episodes",
        result["mae"], result["baseline_mae"], result["error_ratio"], len(table),
    )  # fmt: skip


def check_fit(bundle: Bundle, schema: DatasetSchema, *, where: str) -> None:
    """Raise DataError when the dataset is not of the robot that the bundle was trained for."""
    for what, expected, found in (
        ("state dimensions", bundle.config.state_names, schema.state_names),
        ("action dimensions", bundle.config.action_names, schema.action_names),
        ("frames per second", bundle.config.fps, schema.fps),
    ):
        if expected != found:
            raise DataError(
                f"{where}: expected the {what} of the bundle {bundle.path}, {expected}, found {found}. "
                f"Evaluate on data of the same robot, or train on this dataset."
            )
    missing = [view for view in bundle.config.views if view not in schema.views]
    if missing:
        raise DataError(
            f"{where}: expected the views {', '.join(bundle.config.views)} of the bundle {bundle.path}, "
            f"found no {', '.join(missing)}. Name their columns in data.columns.views."
        )


class Errors:
    """Error sums of the policy and of the mean action, per instruction."""

    def __init__(self, bundle: Bundle) -> None:
        stats = _recorded(bundle)
        self._names = bundle.config.action_names
        self._spec = bundle.spec
        self._mean_A = stats.mean.astype(np.float32)
        self._scale = ActionScale.of(stats)
        self._model: dict[str, ErrorSums] = {}
        self._baseline: dict[str, ErrorSums] = {}

    def add(self, episode: PlayedEpisode, chunks_THA: Float32[np.ndarray, "T H A"]) -> None:
        """Take in the predictions of one episode."""
        steps = np.arange(len(chunks_THA))
        true_THA, weight_TH = recorded_chunks(episode.steps, steps, supervised=episode.supervised, spec=self._spec)
        model = ErrorSums.of(chunks_THA - true_THA, weight_TH)
        baseline = ErrorSums.of(self._mean_A - true_THA, weight_TH)
        task = episode.instruction
        self._model[task] = self._model[task] + model if task in self._model else model
        self._baseline[task] = self._baseline[task] + baseline if task in self._baseline else baseline

    def summary(self) -> dict[str, Any]:
        """The error figures of evaluation.json; `normalised` is in units of the train split's standard deviation."""
        model, baseline = total(self._model), total(self._baseline)
        ratio = self._ratio(model, baseline)
        normalised = model.scaled(self._scale)
        return {
            "mse": model.mse,
            "mae": model.mae,
            "mse_normalised": normalised.mse,
            "mae_normalised": normalised.mae,
            "baseline_mse": baseline.mse,
            "baseline_mae": baseline.mae,
            "error_ratio": ratio,
            "per_dimension": dict(zip(self._names, model.per_dimension(), strict=True)),
            "per_horizon_step": model.per_horizon_step(),
            "per_task": {task: self._task(task) for task in sorted(self._model)},
        }

    def baseline_rows(self) -> dict[str, Any]:
        """The mean action's errors per dimension and horizon step, for the figures."""
        baseline = total(self._baseline)
        return {
            "per_dimension": dict(zip(self._names, baseline.per_dimension(), strict=True)),
            "per_horizon_step": baseline.per_horizon_step(),
        }

    def _task(self, task: str) -> dict[str, float]:
        model, baseline = self._model[task], self._baseline[task]
        return {
            "mse": model.mse,
            "mae": model.mae,
            "baseline_mae": baseline.mae,
            "error_ratio": self._ratio(model, baseline),
            # Every supervised step is the first of a chunk exactly once.
            "steps": int(model.weight_HA[0, 0]),
        }

    def _ratio(self, model: ErrorSums, baseline: ErrorSums) -> float:
        return error_ratio(model, baseline, self._scale)


def _recorded(bundle: Bundle) -> Statistics:
    return recorded_actions(bundle.norm_stats, delta=bundle.processor.delta, where=str(bundle.path))


def spread_over_tasks(table: EpisodeTable, count: int) -> set[int]:
    """Rows of `count` episodes: the first of each instruction, then the second of each, and so on."""
    seen = np.zeros(len(table.instructions), dtype=np.int64)
    turns = []
    for row, instruction in enumerate(table.instruction_E):
        turns.append((int(seen[instruction]), int(instruction), row))
        seen[instruction] += 1
    return {row for _, _, row in sorted(turns)[:count]}


@contextmanager
def _prediction_file(path: Path) -> Iterator[pq.ParquetWriter]:
    with artifacts.new_file(path) as partial, pq.ParquetWriter(partial, PREDICTIONS) as writer:
        yield writer


def _prediction_rows(episode: PlayedEpisode, predicted_TA: Float32[np.ndarray, "T A"]) -> pa.Table:
    count = len(episode.steps)
    columns = [
        [episode.episode_id] * count,
        range(count),
        [episode.instruction] * count,
        list(episode.steps.actions_TA),
        list(predicted_TA),
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, PREDICTIONS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PREDICTIONS)
