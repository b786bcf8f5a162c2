"""The evaluation report: figures as PNG files, and one self-contained HTML page that shows them with the numbers."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, Float64

from vla import artifacts
from vla.evaluation import plots
from vla.evaluation.playback import PlayedEpisode
from vla.normalization import Statistics

PLOTTED_TASKS = 30
"""Bars in the figure of tasks; the table has them all."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22303f; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: 0.5rem 0; }
th, td { padding: 0.25rem 0.9rem 0.25rem 0; text-align: left; border-bottom: 1px solid #e6e9ec; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; } code { color: #5a6b7b; } p.note { color: #5a6b7b; }
"""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What the plot of one episode shows."""

    episode_id: int
    instruction: str
    seconds_T: Float64[np.ndarray, "T"]
    true_TA: Float32[np.ndarray, "T A"]
    predicted_TA: Float32[np.ndarray, "T A"]

    @classmethod
    def of(cls, episode: PlayedEpisode, predicted_TA: Float32[np.ndarray, "T A"]) -> Self:
        steps = episode.steps
        return cls(episode.episode_id, episode.instruction, steps.timestamp_T, steps.actions_TA, predicted_TA.copy())


def write(
    path: Path,
    *,
    result: Mapping[str, Any],
    baseline: Mapping[str, Any],
    trajectories: Sequence[Trajectory],
    names: Sequence[str],
    recorded: Statistics,
) -> None:
    """Write the folder `path`: figures and `report.html`. `result` is the content of evaluation.json.

    `names` and `recorded` are those of the action dimensions and of the recorded actions of the train split.
    """
    with artifacts.new_directory(path) as folder:
        figures = _draw_errors(folder, result=result, baseline=baseline)
        figures |= _draw_trajectories(folder, trajectories, names=names, recorded=recorded)
        page = _page(result, {title: folder / name for title, name in figures.items()})
        (folder / "report.html").write_text(page, encoding="utf-8")


def _draw_errors(folder: Path, *, result: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, str]:
    """Draw the errors into `folder`; title -> file name, in the order of the page."""
    label = "mean absolute error (raw units)"
    tasks = sorted(result["per_task"].items(), key=lambda item: -item[1]["error_ratio"])[:PLOTTED_TASKS]
    plots.error_bars(
        folder / "error_per_task.png",
        label=label,
        errors={task: (row["mae"], row["baseline_mae"]) for task, row in tasks},
    )
    plots.error_bars(
        folder / "error_per_dimension.png",
        label=label,
        errors={
            name: (row["mae"], baseline["per_dimension"][name]["mae"]) for name, row in result["per_dimension"].items()
        },
    )
    plots.error_by_step(
        folder / "error_per_horizon_step.png",
        steps=[row["step"] for row in result["per_horizon_step"]],
        mae=[row["mae"] for row in result["per_horizon_step"]],
        baseline=[row["mae"] for row in baseline["per_horizon_step"]],
    )
    return {
        "Error per task": "error_per_task.png",
        "Error per action dimension": "error_per_dimension.png",
        "Error per step of the predicted chunk": "error_per_horizon_step.png",
    }


def _draw_trajectories(
    folder: Path, trajectories: Sequence[Trajectory], *, names: Sequence[str], recorded: Statistics
) -> dict[str, str]:
    """Draw one figure per episode into `folder`; title -> file name."""
    # Statistics of other projects may lack the extremes; three deviations show about as much.
    low_A = recorded.mean - 3 * recorded.std if recorded.min is None else recorded.min
    high_A = recorded.mean + 3 * recorded.std if recorded.max is None else recorded.max
    figures = {}
    for item in sorted(trajectories, key=lambda item: item.episode_id):
        title, name = f"Episode {item.episode_id}: {item.instruction}", f"episode_{item.episode_id:06d}.png"
        plots.trajectory(
            folder / name,
            title=title,
            names=names,
            seconds_T=item.seconds_T,
            true_TA=item.true_TA,
            predicted_TA=item.predicted_TA,
            range_A2=np.stack([low_A, high_A], axis=1),
        )
        figures[title] = name
    return figures


def _page(result: Mapping[str, Any], figures: Mapping[str, Path]) -> str:
    overall = [
        ("mean absolute error", result["mae"], result["baseline_mae"]),
        ("mean squared error", result["mse"], result["baseline_mse"]),
    ]
    tasks = [
        (task, row["steps"], row["mae"], row["baseline_mae"], row["error_ratio"])
        for task, row in result["per_task"].items()
    ]
    shown = "\n".join(
        f'<h2>{html.escape(title)}</h2>\n<img alt="{html.escape(title)}" '
        f'src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'
        for title, file in figures.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Offline evaluation</title><style>{STYLE}</style></head><body>
<h1>Offline evaluation</h1>
<p>{result["episodes"]} held-out episodes, {result["steps"]} steps. Error ratio <b>{result["error_ratio"]:.3f}</b>:
the policy's mean absolute error over that of always predicting the training data's mean action, each dimension in
units of its standard deviation. Below 1 is better than that.</p>
<p class="note">Bundle <code>{result["bundle_digest"]}</code><br>Dataset <code>{result["dataset_digest"]}</code></p>
{_table(("raw units", "policy", "mean action"), overall)}
{_table(("task", "steps", "mean absolute error", "of the mean action", "error ratio"), tasks)}
{shown}
</body></html>
"""


def _table(header: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """The first column is text, the others are numbers."""
    lines = [[html.escape(str(row[0])), *(f"{value:.4g}" for value in row[1:])] for row in rows]
    cells = [
        "".join(f"<{tag}{' class=number' if index else ''}>{value}</{tag}>" for index, value in enumerate(line))
        for tag, line in [("th", header), *(("td", line) for line in lines)]
    ]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
