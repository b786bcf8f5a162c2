"""Figures of the evaluation report, drawn without a display and without matplotlib's global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

MODEL, TRUE, BASELINE = "#d1495b", "#2e4057", "#b8c4cc"
DPI = 110


def trajectory(
    path: Path,
    *,
    title: str,
    names: Sequence[str],
    seconds_T: Float32[np.ndarray, "T"],
    true_TA: Float32[np.ndarray, "T A"],
    predicted_TA: Float32[np.ndarray, "T A"],
    range_A2: Float64[np.ndarray, "A 2"],
) -> None:
    """Recorded and predicted first actions of one episode, one panel per action dimension.

    Each panel shows at least the dimension's range in the training data, so that noise on a constant looks small.
    """
    columns = 1 if len(names) <= 4 else 2 if len(names) <= 12 else 4
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(7.5, 4.2 * columns), 1.0 + 1.45 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    panels = list(grid.flat)
    for name, axes, true_T, predicted_T, limits in zip(
        names, panels, true_TA.T, predicted_TA.T, range_A2, strict=False
    ):
        axes.plot(seconds_T, true_T, color=TRUE, linewidth=1.6, label="recorded")
        axes.plot(seconds_T, predicted_T, color=MODEL, linewidth=1.2, label="predicted")
        axes.set_title(name, fontsize=9, loc="left", pad=3)
        # Two invisible points widen the automatic limits.
        axes.plot(seconds_T[[0, 0]], limits, linestyle="none")
        _plain(axes)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for axes in panels[len(names) - columns : len(names)]:
        axes.tick_params(labelbottom=True)
    figure.suptitle(title, fontsize=11, x=0.01, horizontalalignment="left")
    figure.supxlabel("time since episode start (s)", fontsize=10)
    figure.supylabel("action (raw units)", fontsize=10)
    _save(figure, path, legend_of=panels[0])


def error_by_step(path: Path, *, steps: Sequence[int], mae: Sequence[float], baseline: Sequence[float]) -> None:
    """Mean absolute error by how many steps ahead the action lies."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, baseline, color=BASELINE, linewidth=2, marker="o", markersize=4, label="mean action")
    axes.plot(steps, mae, color=MODEL, linewidth=2, marker="o", markersize=4, label="policy")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step of the predicted chunk")
    axes.set_ylabel("mean absolute error (raw units)")
    _plain(axes)
    _save(figure, path, legend_of=axes)


def error_bars(path: Path, *, label: str, errors: Mapping[str, tuple[float, float]]) -> None:
    """Horizontal pairs of bars: name -> (error of the policy, error of the mean action)."""
    figure = Figure(figsize=(7.5, 1.2 + 0.42 * len(errors)), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(errors))
    model, baseline = np.array(list(errors.values())).T
    axes.barh(place + 0.19, baseline, height=0.36, color=BASELINE, label="mean action")
    axes.barh(place - 0.19, model, height=0.36, color=MODEL, label="policy")
    for y, value in zip(place - 0.19, model, strict=True):
        axes.annotate(f"{value:.3g}", (value, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(place, list(errors))
    axes.invert_yaxis()
    axes.margins(x=0.1)  # room for the numbers beside the bars
    axes.set_xlabel(label)
    _plain(axes)
    _save(figure, path, legend_of=axes)


def _save(figure: Figure, path: Path, *, legend_of: Axes) -> None:
    """Write the figure with one legend above it, where it covers no data."""
    handles, labels = legend_of.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False)
    figure.savefig(path, dpi=DPI)


def _plain(axes: Axes) -> None:
    """No box, a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e6e9ec", linewidth=0.8)
    axes.set_axisbelow(True)
