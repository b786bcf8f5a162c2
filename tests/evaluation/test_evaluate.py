"""The whole stage on a small generated dataset."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from bundles import a_bundle
from projects import a_project

from vla.data.manifest import Manifest
from vla.errors import DataError
from vla.evaluation import evaluate
from vla.sim import world


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with two held-out episodes, one per task."""
    return a_project(tmp_path_factory.mktemp("project"), {"evaluate.plotted_episodes": 1})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return a_bundle(
        tmp_path_factory.mktemp("bundle") / "policy",
        state_names=world.STATE_NAMES,
        action_names=world.ACTION_NAMES,
        fps=world.FPS,
    )


def run(project, bundle, out, **changes):
    cfg = evaluate.Config.load(project / "params.yaml")
    cfg = cfg.model_copy(update={"evaluate": cfg.evaluate.model_copy(update=changes)})
    data = project / "data"
    evaluate.run(
        cfg,
        policy=bundle.path,
        dataset=data / "dataset",
        episodes=data / "episodes.parquet",
        predictions=out / "predictions.parquet",
        report=out / "evaluation",
        metrics=out / "evaluation.json",
    )
    return json.loads((out / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def done(project, bundle, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, run(project, bundle, out)


def test_the_metrics_name_bundle_and_data_and_count_what_was_predicted(project, bundle, done):
    result = done[1]
    table = pq.read_table(project / "data" / "episodes.parquet").to_pylist()
    held_out = [row for row in table if row["split"] == "validation"]
    assert result["bundle_digest"] == bundle.digest
    assert result["dataset_digest"] == Manifest.read(project / "data" / "dataset").digest
    assert result["episodes"] == len(held_out)
    assert result["steps"] == sum(row["length"] for row in held_out)
    assert result["steps"] == sum(task["steps"] for task in result["per_task"].values())
    assert list(result["per_dimension"]) == sorted(world.ACTION_NAMES)
    assert [row["step"] for row in result["per_horizon_step"]] == [0, 1, 2, 3]


def test_the_predictions_stand_beside_the_recorded_actions(done):
    out, result = done
    rows = pq.read_table(out / "predictions.parquet").to_pylist()
    assert len(rows) == result["steps"]
    assert {row["instruction"] for row in rows} == set(result["per_task"])
    error = np.array([np.subtract(row["predicted_action"], row["action"]) for row in rows])
    # Every step is the first of one chunk, so these are the errors of horizon step 0.
    assert np.abs(error).mean() == pytest.approx(result["per_horizon_step"][0]["mae"], rel=1e-5)


def test_the_batch_size_changes_no_figure(project, bundle, done, tmp_path):
    alone = run(project, bundle, tmp_path, batch_size=1)
    for name in ("mse", "mae", "error_ratio", "baseline_mae"):
        assert alone[name] == pytest.approx(done[1][name], rel=1e-5)


def test_the_report_is_one_page_without_outside_links(done):
    folder = done[0] / "evaluation"
    page = (folder / "report.html").read_text()
    pictures = sorted(item.name for item in folder.glob("*.png"))
    assert len(pictures) == 4
    assert sum(name.startswith("episode_") for name in pictures) == 1
    assert page.count("data:image/png;base64,") == 4
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert all(task in page for task in done[1]["per_task"])


def test_a_bundle_of_another_robot_is_refused_before_anything_is_written(project, tmp_path):
    other = a_bundle(tmp_path / "policy", state_names=world.STATE_NAMES, action_names=("x", "y"), fps=world.FPS)
    with pytest.raises(DataError, match="expected the action dimensions of the bundle"):
        run(project, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
