"""What a worker refuses before it trains."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import ArrayDataset, make_episode

from vla.errors import DataError
from vla.normalization import NormStats, Statistics
from vla.training.parts import read_norm_stats


def written(folder: Path, dataset: ArrayDataset, **provenance: Any) -> Path:
    """Statistics of the dataset's dimensions."""
    sizes = (dataset.schema.state_dim, dataset.schema.action_dim)
    state, actions = (Statistics(np.zeros(dims), np.ones(dims)) for dims in sizes)
    NormStats(state, actions, provenance).write(folder / "norm_stats.json")
    return folder / "norm_stats.json"


def test_statistics_over_chunks_of_another_length_are_refused(tmp_path: Path) -> None:
    dataset = ArrayDataset([make_episode()])
    path = written(tmp_path, dataset, weighting="chunks", action_horizon=16)
    assert read_norm_stats(path, dataset, horizon=16).provenance["action_horizon"] == 16
    with pytest.raises(
        DataError, match=r"over chunks of 8 actions \(policy\.action_horizon\), found those of 16\. Run"
    ):
        read_norm_stats(path, dataset, horizon=8)


@pytest.mark.parametrize("provenance", [{"weighting": "steps"}, {"action_horizon": 50, "reused": {"path": "pi05"}}])
def test_the_horizon_does_not_matter_where_it_enters_no_number_or_statistics_are_reused(
    tmp_path: Path, provenance: dict[str, Any]
) -> None:
    dataset = ArrayDataset([make_episode()])
    read_norm_stats(written(tmp_path, dataset, **provenance), dataset, horizon=8)


def test_statistics_of_other_dimensions_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, ArrayDataset([make_episode(state_TS=np.zeros((6, 2), np.float32))]))
    with pytest.raises(DataError, match="state: expected 3 dimensions as in arrays, found 2"):
        read_norm_stats(path, ArrayDataset([make_episode()]), horizon=8)
