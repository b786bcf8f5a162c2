"""The stage as a whole: on sound data, on faulty data under both settings, and its three outputs."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import (
    ArrayDataset,
    make_demonstration,
    make_episode,
    make_sources,
    set_number,
    write_dataset_folder,
)
from inspections import SETTINGS, inspected

from vla import keyed
from vla.data import norm_stats, sources, validate
from vla.data.checks import Finding, views
from vla.data.episodes import SCHEMA, EpisodeTable
from vla.data.inspection import ALL_CHECKS, Inspection
from vla.data.manifest import Manifest
from vla.data.survey import UNKNOWN, Survey
from vla.data.validate import Config, ValidateConfig
from vla.data.validation_record import make_record, make_table
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
        opened = make_sources(data)
        contents[name] = make_table(inspected(opened), opened, holdout=0.2)["content"].to_pylist()
    assert contents["first"] == contents["second"][::-1]


def test_norm_stats_leave_out_what_is_quarantined_or_held_out(faulty, tmp_path):
    episodes, _, _ = run(faulty, tmp_path, on_bad_episode="quarantine")
    out = tmp_path / "norm_stats.json"
    sections = {"norm_stats": {"weighting": "steps", "memory_bytes": 0}, "policy": {"action_horizon": 2}}
    cfg = norm_stats.Config.parse({"data": DATA, "transforms": {}, **sections}, where="test")
    norm_stats.run(cfg, dataset=faulty, episodes=episodes, norm_stats=out)
    stats, table = NormStats.read(out), EpisodeTable.read(episodes, "train")
    states = np.concatenate([demonstrations()[number].state_TS for number in table.episode_id_E]).astype(np.float64)
    assert stats.state.count == len(states)
    np.testing.assert_allclose(stats.state.mean, states.mean(axis=0), rtol=1e-12)


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
    cfg, opened = ValidateConfig.parse({**SETTINGS, **settings}, where="test"), make_sources(data)
    inspection = inspected(opened, **settings)
    table = make_table(inspection, opened, holdout=cfg.holdout)
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
        ({"warn_only": ["finite"]}, r"validate\.warn_only: .*expected some of black_view, contents"),
        ({"warn_only": ["frozen_stretch"]}, r"validate\.warn_only: .*Did you mean 'frozen_view'\?"),
        ({"skip": ["shapes"]}, r"validate\.skip: .*expected some of action_saturation"),
        ({"frames": "some"}, r"validate\.frames: input should be 'none', 'ends' or 'all'"),
        ({"state_dim": 0}, r"validate\.state_dim: input should be greater than 0"),
        ({"holdout": 0.0}, r"validate\.holdout: input should be greater than 0"),
        ({"holdout": 1.0}, r"validate\.holdout: input should be less than 1"),
        ({"on_bad_episode": "skip"}, r"validate\.on_bad_episode: input should be 'stop' or 'quarantine'"),
    ],
)
def test_wrong_settings_are_explained(settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)


def test_what_is_not_checked_is_said_in_plain_words(sound, tmp_path):
    """As on slow storage: no frame, no timestamp, no file is looked at."""
    _, validation, report = run(sound, tmp_path, frames="none", skip=["timestamps", "files", "surplus_files"])
    record = json.loads(validation.read_text())
    lines = [
        "pictures: no frame was decoded and no video was opened (validate.frames is none)",
        "timestamps: timestamps begin near 0 and advance by 1 / fps (validate.skip names it)",
        "files: every file that holds episodes is listed in the manifest (validate.skip names it)",
        "black_view: no view is black for a whole episode (validate.frames is none)",
    ]
    assert set(lines) <= set(record["not_checked"])
    assert all(line in report.read_text() for line in lines)
    skipped = {check["name"] for check in record["checks"] if check["status"] == "skipped"}
    assert skipped == {"timestamps", "files", "surplus_files", *(check.name for check in views.CHECKS)}
    assert all(blocks is None for blocks in pq.read_table(tmp_path / "episodes.parquet")["blocks"].to_pylist())


def test_the_ends_of_every_episode_are_a_canary(sound, tmp_path):
    episodes, validation, _ = run(sound, tmp_path, frames="ends")
    record = json.loads(validation.read_text())
    assert [check["name"] for check in record["checks"] if check["status"] == "skipped"] == ["frozen_stretch"]
    assert "frames between the first, the middle and the last" in " ".join(record["not_checked"])
    assert pq.read_table(episodes)["blocks"].to_pylist() == [[0]] * 12


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """The sound dataset, and as source `bridge` four others, of which episode 3 is a copy of its episode 0."""
    folder = write_dataset_folder(tmp_path_factory.mktemp("mixed") / "dataset", demonstrations())
    made = [make_demonstration(length=5, seed=seed) for seed in (20, 21, 22)]
    write_dataset_folder(folder / "mixture/bridge", [*made, demonstrations()[0]])
    for entry in (folder, folder / "mixture/bridge"):
        manifest = Manifest.read(entry)
        code = sources.reading_code("lerobot_v30") if entry != folder else None
        kept = tuple(file for file in manifest.files if not file.path.startswith("mixture"))
        replace(manifest, files=kept, code=code).write(entry)
    return folder


def mixture(**bridge: object) -> dict[str, object]:
    return {**DATA, "mixture": {"bridge": {"format": "lerobot_v30", "columns": DATA["columns"], **bridge}}}


def run_mixture(folder: Path, out: Path, data: dict[str, object], **settings: object) -> tuple[pa.Table, dict]:
    cfg = Config.parse({"data": data, "validate": {**SETTINGS, **settings}}, where="test")
    paths = {name: out / name for name in ("episodes", "validation", "report")}
    validate.run(cfg, dataset=folder, **paths)
    return pq.read_table(paths["episodes"]), json.loads(paths["validation"].read_text())


def test_a_mixture_is_validated_source_by_source(mixed, tmp_path):
    table, record = run_mixture(mixed, tmp_path, mixture(select={"episodes": ["0:3"]}))
    assert table["source"].to_pylist() == ["noise"] * 12 + ["bridge"] * 3
    assert table["uid"].to_pylist()[12:] == [keyed.uid("bridge", episode) for episode in range(3)]
    assert table["episode_id"].to_pylist()[12:] == [(1 << 40) + episode for episode in range(3)]
    assert [source["name"] for source in record["sources"]] == ["noise", "bridge"]
    assert [source["left_out"] for source in record["sources"]] == [{}, {"not in data.select.episodes": 1}]
    assert sum(source["episodes"]["validation"] for source in record["sources"]) == record["episodes"]["validation"]
    [finding] = record["findings"]
    assert (finding["where"], finding["check"]) == ("bridge", "selection")
    report = (tmp_path / "report").read_text()
    assert "1 not in data.select.episodes" in report
    assert "<td>bridge</td><td>lerobot_v30</td><td>1 not in data.select.episodes</td>" in report


def test_a_source_can_be_held_out_as_a_whole_and_with_it_every_copy_of_its_episodes(mixed, tmp_path, caplog):
    with caplog.at_level("INFO"):
        table, record = run_mixture(mixed, tmp_path, mixture(), held_out_source="bridge")
    assert "16 episodes: 11 train, 5 validation, 0 quarantined; 1 warning, see" in caplog.text
    sides = table["split"].to_pylist()
    assert sides == ["validation", *["train"] * 11, *["validation"] * 4]
    assert record["held_out_source"] == "bridge"
    assert "bridge is held out as a whole" in (tmp_path / "report").read_text()
    assert [finding["message"].split(" hold")[0] for finding in record["findings"]] == [
        "noise: episode 0, bridge: episode 3"
    ]


@pytest.mark.parametrize("name", ["brigde", "noise"])
def test_a_held_out_source_is_one_of_the_mixture(mixed, tmp_path, name):
    with pytest.raises(ConfigError, match=r"validate\.held_out_source: expected a dataset of data\.mixture \(bridge\)"):
        run_mixture(mixed, tmp_path, mixture(), held_out_source=name)


def test_a_large_episode_table_is_made_of_columns():
    count = 50_000
    schema = ArrayDataset([make_episode()]).schema
    rows = pa.table(
        {
            "episode_id": np.arange(count),
            "length": np.full(count, 7),
            "instruction": [f"task {index % 100}" for index in range(count)],
            "supervised": pa.array([5, None] * (count // 2), pa.int64()),
            "source": ["arrays"] * count,
        }
    )
    survey = Survey.empty(schema, total_steps=1)
    survey.episode_ids.extend(range(1, count))
    survey.contents += [f"{index:032x}" for index in range(1, count)]
    survey.block_counts.extend([2, UNKNOWN] * (count // 2 - 1) + [2])
    survey.block_starts.extend([0, 4] * (count // 2))
    fault = Finding("finite", 0, "episode 0", "a NaN", "error")
    inspection = Inspection([], rows, [fault], survey, dict.fromkeys((check.name for check in ALL_CHECKS), ""), "all")
    began = time.process_time()
    table = make_table(inspection, ArrayDataset([make_episode()]), holdout=0.1)
    record = make_record(inspection, table, failed=False)
    assert time.process_time() - began < 5
    assert table.schema.equals(SCHEMA)
    assert record["episodes"] == {"total": count, "train": 44_999, "validation": 5_000, "quarantined": 1}
    assert record["steps"]["total"] == 7 * count
    assert record["quarantined"] == [{"episode_id": 0, "where": "0", "reason": "finite: a NaN"}]
    assert [table[name][0].as_py() for name in ("split", "reason", "content", "blocks")] == [
        "quarantined",
        "finite: a NaN",
        "",
        None,
    ]
    assert table.slice(1, 3)["blocks"].to_pylist() == [[0, 4], None, [0, 4]]
    assert table.slice(1, 2)["supervised"].to_pylist() == [None, 5]
    assert len(record["episode_contents"]["train"]) == 44_999
