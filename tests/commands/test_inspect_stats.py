import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from builders import make_demonstration, make_statistics, write_dataset_folder
from bundles import a_bundle
from imports import ROOT

from vla import cli
from vla.data.episodes import SCHEMA
from vla.normalization import NormStats, Statistics
from vla.sim import world


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project folder with the repository's parameters and two recorded episodes."""
    monkeypatch.chdir(tmp_path)
    set_params(tmp_path, {})
    write_dataset_folder(tmp_path / "dataset", demonstrations())
    return tmp_path


def demonstrations():
    return [make_demonstration(length=30, seed=seed) for seed in range(2)]


def set_params(folder, transforms):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["transforms"] |= transforms
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def own_statistics() -> tuple[Statistics, Statistics]:
    made = demonstrations()
    return tuple(
        make_statistics(np.concatenate([getattr(item, name) for item in made])) for name in ("state_TS", "actions_TA")
    )


def write_stats(path, *, state=None, actions=None, provenance=None) -> None:
    own_state, own_actions = own_statistics()
    NormStats(state or own_state, actions or own_actions, provenance or {}).write(path)


def shown(capsys, *paths) -> str:
    assert cli.main(["inspect", "stats", *map(str, paths)]) == 0
    return capsys.readouterr().out


def verdicts(text: str) -> dict[str, str]:
    """Dimension -> the last word of its line."""
    return {line.split()[0]: line.split()[-1] for line in text.splitlines() if line.startswith(world.STATE_NAMES)}


def test_a_dataset_fits_its_own_statistics(folder, capsys):
    write_stats(folder / "norm_stats.json")
    text = shown(capsys, folder / "norm_stats.json", folder / "dataset")
    assert "verdict     fits in every dimension" in text
    assert "all 2 episodes" in text
    assert set(verdicts(text)) == set(world.STATE_NAMES)


def write_split(path, length) -> None:
    """An episode table in which only the second episode is of the train split."""
    row = {"source": "metaworld-easy-4", "content": "c", "length": length, "instruction": "open", "reason": ""}
    rows = [{**row, "episode_id": id_, "uid": id_, "split": split} for id_, split in enumerate(("validation", "train"))]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)


def test_the_train_split_is_measured_where_its_table_lies_beside_the_dataset(folder, capsys):
    write_stats(folder / "norm_stats.json")
    write_split(folder / "episodes.parquet", length=30)
    text = shown(capsys, folder / "norm_stats.json", folder / "dataset")
    assert "1 episodes of the train split" in text
    largest = demonstrations()[1].state_TS[:, 0].max()
    assert next(line for line in text.splitlines() if line.startswith("hand_x")).split()[4] == f"{largest:.4g}"


def test_a_table_of_another_dataset_is_not_taken(folder, capsys):
    write_stats(folder / "norm_stats.json")
    write_split(folder / "episodes.parquet", length=31)
    assert "all 2 episodes" in shown(capsys, folder / "norm_stats.json", folder / "dataset")


def test_every_way_of_not_fitting_is_named(folder, capsys):
    own, _ = own_statistics()
    # Of the state, hand_x was learned ten times narrower, hand_y twenty times wider and hand_z as a constant.
    half = np.array([0.1, 20, 0, 1]) * 3
    state = Statistics(own.mean, half / 2, q01=-half, q99=half, q50=0 * half)
    actions = own_statistics()[1].first(3)
    write_stats(folder / "norm_stats.json", state=state, actions=actions)
    text = shown(capsys, folder / "norm_stats.json", folder / "dataset")
    assert "verdict     does not fit in 4 of 8 dimensions" in text
    assert "verdict     outside: state hand_x (" in text
    assert "verdict     wide: state hand_y (" in text
    assert "verdict     constant: state hand_z (" in text
    assert "verdict     missing: actions close_gripper (" in text
    assert verdicts(text) == {"hand_x": "outside", "hand_y": "wide", "hand_z": "constant", "gripper_opening": "fits"}


def write_padded(folder, last: float) -> None:
    """A file as openpi writes it, with 32 dimensions of which the last one moves by `last`."""
    plain = {}
    for quantity, stats in zip(("state", "actions"), own_statistics(), strict=True):
        values = {name: getattr(stats, name).tolist() for name in ("mean", "std", "q01", "q99")}
        plain[quantity] = {name: [*numbers, *[0.0] * 27, last] for name, numbers in values.items()}
    folder.mkdir()
    (folder / "norm_stats.json").write_text(json.dumps({"norm_stats": plain}))


def test_a_padded_file_of_another_project_is_read_as_far_as_the_data_go(folder, capsys):
    set_params(folder, {"normalization": {"state": "quantile", "actions": "quantile"}})
    write_padded(folder / "assets", 0.0)
    text = shown(capsys, folder / "assets", folder / "dataset")
    assert "verdict     fits in every dimension" in text
    assert text.count("the statistics have 28 further dimensions that never move") == 2


def test_dimensions_that_the_data_lack_are_named_where_the_policy_saw_them_move(folder, capsys):
    set_params(folder, {"normalization": {"state": "quantile", "actions": "quantile"}})
    write_padded(folder / "assets", 1.0)
    text = shown(capsys, folder / "assets", folder / "dataset")
    assert "verdict     does not fit in 2 of 10 dimensions" in text
    assert "verdict     absent: state dimension 31, actions dimension 31 (" in text


def test_a_bundle_is_taken_by_its_own_settings(folder, capsys):
    set_params(folder, {"normalization": {"state": "mean_std", "actions": "mean_std"}})
    state, actions = own_statistics()
    bundle = a_bundle(
        folder / "policy",
        state_names=("hand_x", "hand_y", "lift", "gripper_opening"),
        action_names=world.ACTION_NAMES,
        norm_stats=NormStats(state, actions),
    )
    text = shown(capsys, bundle.path, folder / "dataset")
    assert "a bundle trained on toy" in text
    assert "by quantile" in text
    assert "by min_max" in text
    assert "names differ, the statistics' first: lift is hand_z" in text


def test_what_a_file_says_about_its_deltas_goes_before_the_parameters(folder, capsys):
    delta = [{"actions": [0, 2], "state": [0, 2]}]
    write_stats(folder / "norm_stats.json", provenance={"delta_actions": delta, "action_horizon": 1})
    text = shown(capsys, folder / "norm_stats.json", folder / "dataset")
    differences = np.concatenate([made.actions_TA[:, 0] - made.state_TS[:, 0] for made in demonstrations()])
    line = next(line for line in text.splitlines() if line.startswith("move_x"))
    assert line.split()[1:5:3] == [f"{differences.min():.4g}", f"{differences.max():.4g}"]


def test_statistics_that_lack_what_the_method_needs_are_refused(folder, capsys):
    own = own_statistics()[1]
    write_stats(folder / "norm_stats.json", actions=Statistics(own.mean, own.std))
    assert cli.main(["inspect", "stats", str(folder / "norm_stats.json"), str(folder / "dataset")]) == 2
    assert "norm stats: actions: expected min and max for the method min_max" in capsys.readouterr().err


def test_a_place_without_statistics_is_refused(folder, capsys):
    assert cli.main(["inspect", "stats", str(folder / "absent"), str(folder / "dataset")]) == 2
    assert "expected a bundle or a norm_stats.json, found none" in capsys.readouterr().err
