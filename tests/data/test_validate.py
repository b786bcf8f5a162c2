"""The stage as a whole: on sound data, on faulty data under both settings, and its three outputs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import ArrayDataset, make_demonstration, make_episode, set_number, write_dataset_folder

from vla import keyed
from vla.data import norm_stats, validate, validation_report
from vla.data.episodes import SCHEMA, EpisodeTable
from vla.data.manifest import Manifest
from vla.data.validate import Config, ValidateConfig
from vla.errors import ConfigError, DataError
from vla.normalization import NormStats

DATA = {
    "name": "noise",
    "format": "lerobot_v30",
    "columns": {
        "state": "observation.state",
        "actions": "action",
        "views": {"front": "observation.images.front", "wrist": "observation.images.wrist"},
    },
}
SETTINGS = {"holdout": 0.2, "on_bad_episode": "stop", "timestamp_tolerance": 0.01, "warn_only": []}


def config(**settings: object) -> Config:
    return Config.parse({"data": DATA, "validate": {**SETTINGS, **settings}}, where="test")


def run(dataset: Path, folder: Path, **settings: object) -> tuple[Path, Path, Path]:
    paths = (folder / "episodes.parquet", folder / "validation.json", folder / "validation.html")
    episodes, validation, report = paths
    validate.run(config(**settings), dataset=dataset, episodes=episodes, validation=validation, report=report)
    return paths


def demonstrations() -> list:
    tasks = ["drawer-open-v3", "faucet-open-v3"] * 6
    return [make_demonstration(task, 4 + index % 3, seed=index) for index, task in enumerate(tasks)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write_dataset_folder(tmp_path_factory.mktemp("sound") / "dataset", demonstrations())


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Path:
    """Episode 2 holds a NaN, episode 5 a black wrist view."""
    made = demonstrations()
    dark = make_demonstration(length=len(made[5]), seed=5, brightness=0.0)
    made[5] = replace(made[5], images={**made[5].images, "wrist": dark.images["wrist"]})
    folder = write_dataset_folder(tmp_path_factory.mktemp("faulty") / "dataset", made)
    set_number(folder, column="action", episode=2, step=1, dimension=3, value=np.nan)
    return folder


def test_sound_data_give_a_table_that_later_stages_read(sound, tmp_path):
    episodes, validation, _ = run(sound, tmp_path)
    table = pq.read_table(episodes)
    assert table.schema.equals(SCHEMA)
    assert table["episode_id"].to_pylist() == list(range(12))
    assert table["uid"].to_pylist() == [keyed.uid("noise", episode) for episode in range(12)]
    assert table["length"].to_pylist() == [4, 5, 6] * 4
    assert table["instruction"].to_pylist() == ["open the drawer", "open the faucet"] * 6
    train, held = EpisodeTable.read(episodes, "train"), EpisodeTable.read(episodes, "validation")
    assert (len(train), len(held)) == (10, 2)
    assert held.instructions == ("open the drawer", "open the faucet")
    record = json.loads(validation.read_text())
    assert record["status"] == "passed"
    assert record["data_name"] == "noise"
    assert record["dataset_digest"] == Manifest.read(sound).digest
    assert record["episodes"] == {"total": 12, "train": 10, "validation": 2, "quarantined": 0}
    assert record["steps"]["total"] == 60 == record["steps"]["train"] + record["steps"]["validation"]
    assert {check["status"] for check in record["checks"]} == {"passed"}
    contents = dict(zip(table["episode_id"].to_pylist(), table["content"].to_pylist(), strict=True))
    assert len(set(contents.values())) == 12
    assert record["episode_contents"]["validation"] == [contents[episode] for episode in held.episode_id_E]
    assert record["findings"] == []
    assert record["not_checked"]


def test_a_second_run_gives_equal_bytes(sound, tmp_path):
    first, second = run(sound, tmp_path / "a"), run(sound, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_change_of_images_alone_changes_the_table(sound, tmp_path):
    made = demonstrations()
    made[0] = replace(made[0], images={**made[0].images, "front": made[0].images["wrist"]})
    other = write_dataset_folder(tmp_path / "dataset", made)
    episodes, _, _ = run(sound, tmp_path / "a")
    changed, _, _ = run(other, tmp_path / "b")
    assert pq.read_table(episodes).equals(pq.read_table(changed))
    assert EpisodeTable.read(episodes, "train").digest != EpisodeTable.read(changed, "train").digest


def test_faulty_episodes_stop_the_run_after_the_report_is_written(faulty, tmp_path):
    with pytest.raises(DataError) as caught:
        run(faulty, tmp_path)
    message = str(caught.value)
    assert "found 2 of 12 with faults" in message
    assert "episode 2: finite: step 1: expected a finite number for action close_gripper, found nan" in message
    assert "episode 5: black_view: view wrist: expected a picture, found black" in message
    assert "set validate.on_bad_episode to quarantine" in message
    assert str(tmp_path / "validation.html") in message
    assert not (tmp_path / "episodes.parquet").exists()
    assert json.loads((tmp_path / "validation.json").read_text())["status"] == "failed"
    assert "found nan" in (tmp_path / "validation.html").read_text()


def test_faulty_episodes_are_quarantined_by_name_with_the_reason(faulty, tmp_path):
    episodes, validation, _ = run(faulty, tmp_path, on_bad_episode="quarantine")
    rows = {row["episode_id"]: row for row in pq.read_table(episodes).to_pylist()}
    quarantined = {number for number, row in rows.items() if row["split"] == "quarantined"}
    assert quarantined == {2, 5}
    assert rows[2]["reason"].startswith("finite: step 1: expected a finite number for action close_gripper")
    assert {row["reason"] for number, row in rows.items() if number not in quarantined} == {""}
    record = json.loads(validation.read_text())
    assert record["status"] == "passed"
    assert record["episodes"]["quarantined"] == 2
    assert {check["name"] for check in record["checks"] if check["status"] == "failed"} == {"finite", "black_view"}
    assert [(finding["check"], finding["episode_id"]) for finding in record["findings"]] == [
        ("finite", 2),
        ("black_view", 5),
    ]
    assert {number for number, row in rows.items() if not row["content"]} == quarantined
    assert {side: len(contents) for side, contents in record["episode_contents"].items()} == {
        "train": 8,
        "validation": 2,
    }


def test_an_episode_is_known_by_its_contents_whatever_the_dataset_is_called():
    episodes = [make_episode(seed=seed) for seed in range(3)]
    contents = {}
    for name, data in (("first", ArrayDataset(episodes)), ("second", ArrayDataset(episodes[::-1]))):
        inspection = validate.inspect(data, ValidateConfig.parse(SETTINGS, where="test"), listed=frozenset())
        contents[name] = validate.make_table(inspection, name=name, holdout=0.2)["content"].to_pylist()
    assert contents["first"] == contents["second"][::-1]


def test_norm_stats_leave_out_what_is_quarantined_or_held_out(faulty, tmp_path):
    episodes, _, _ = run(faulty, tmp_path, on_bad_episode="quarantine")
    out = tmp_path / "norm_stats.json"
    cfg = norm_stats.Config.parse({"data": DATA, "norm_stats": {"memory_bytes": 0}}, where="test")
    norm_stats.run(cfg, dataset=faulty, episodes=episodes, norm_stats=out)
    stats, table = NormStats.read(out), EpisodeTable.read(episodes, "train")
    kept = [demonstrations()[number] for number in table.episode_id_E]
    states = np.concatenate([made.state_TS for made in kept]).astype(np.float64)
    assert stats.state.count == len(states)
    np.testing.assert_allclose(stats.state.mean, states.mean(axis=0), rtol=1e-12)
    assert np.array_equal(stats.state.q01, np.quantile(states, 0.01, axis=0))
    assert stats.provenance == {
        "data_name": "noise",
        "dataset_digest": Manifest.read(faulty).digest,
        "episodes_digest": table.digest,
        "episodes": len(table),
        "steps": len(states),
    }


def test_a_fault_of_the_dataset_stops_the_run_also_under_quarantine(tmp_path):
    dataset = write_dataset_folder(tmp_path / "dataset", demonstrations())
    manifest = Manifest.read(dataset)
    kept = tuple(entry for entry in manifest.files if not entry.path.startswith("data/"))
    replace(manifest, files=kept).write(dataset)
    with pytest.raises(DataError, match=r"files: expected the manifest to list every data file, missing data/chunk"):
        run(dataset, tmp_path, on_bad_episode="quarantine")
    record = json.loads((tmp_path / "validation.json").read_text())
    statuses = {check["name"]: check["status"] for check in record["checks"]}
    assert statuses["files"] == "failed"
    assert statuses["schema"] == "passed"
    assert statuses["finite"] == statuses["duplicate_episode"] == "skipped"
    assert (tmp_path / "validation.html").exists()


def problem(data: ArrayDataset, **settings: object) -> str:
    cfg = ValidateConfig.parse({**SETTINGS, **settings}, where="test")
    inspection = validate.inspect(data, cfg, listed=frozenset())
    table = validate.make_table(inspection, name="arrays", holdout=cfg.holdout)
    return validate.find_problem(inspection, table, cfg, dataset=Path("data/dataset"))


def test_a_dataset_without_a_sound_episode_stops_the_run_also_under_quarantine():
    message = problem(ArrayDataset([make_episode(instruction="")] * 3), on_bad_episode="quarantine")
    assert "found 3 of 3 with faults" in message
    assert "quarantine" not in message.split("Repair")[1]


def test_many_faulty_episodes_are_counted_after_the_first_few():
    data = ArrayDataset([make_episode(seed=seed, instruction="") for seed in range(20)] + [make_episode(seed=20)])
    message = problem(data)
    assert message.count("\n  episode ") == 5
    assert "and 15 more" in message


def test_one_recording_cannot_be_both_trained_on_and_held_out():
    data = ArrayDataset([make_episode(seed=1)] * 4)
    assert "found all 4 held out for validation" in problem(data)
    assert problem(ArrayDataset([make_episode(seed=seed) for seed in (1, 1, 1, 2)])) == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warn_only": ["timestamp"]}, r"validate\.warn_only: .*Did you mean 'timestamps'\?"),
        ({"warn_only": ["finite"]}, r"validate\.warn_only: .*expected some of black_view, frozen_view"),
        ({"holdout": 0.0}, r"validate\.holdout: input should be greater than 0"),
        ({"holdout": 1.0}, r"validate\.holdout: input should be less than 1"),
        ({"on_bad_episode": "skip"}, r"validate\.on_bad_episode: input should be 'stop' or 'quarantine'"),
    ],
)
def test_wrong_settings_are_explained(settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)


def test_the_report_is_one_page_without_links_and_with_escaped_texts(tmp_path):
    episodes = [make_episode(seed=seed, instruction="open <b>the</b> drawer & wait") for seed in range(4)]
    data = ArrayDataset(episodes)
    cfg = ValidateConfig.parse(SETTINGS, where="test")
    inspection = validate.inspect(data, cfg, listed=frozenset())
    table = validate.make_table(inspection, name="arrays", holdout=0.2)
    record = validate.make_record(inspection, table, not_checked=["x < y"], failed=False)
    text = validation_report.render(
        {**record, "data_name": "a&b", "dataset_digest": "0" * 64}, table, inspection.survey
    )
    assert "open &lt;b&gt;the&lt;/b&gt; drawer &amp; wait" in text
    assert "<b>the</b>" not in text
    assert "Validation of a&amp;b" in text
    assert "x &lt; y" in text
    assert "http" not in text
    # Two views of one instruction, first and last frame.
    assert text.count("data:image/png;base64,") == 4
    # One histogram per dimension of state and actions, and one of lengths.
    assert text.count("<svg") == 3 + 2 + 1
