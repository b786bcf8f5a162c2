"""Damaged miniatures: the stages download and validate name each defect with its episode and step."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_demonstration, write_dataset_folder
from damages import Damage, Outcome, column, cut, edited, flipped, in_row, nan_in_row, validated
from inspections import SETTINGS

from tests.formats.files import decode, png, write_video
from tests.formats.miniatures import MINIATURES
from vla import parquet
from vla.data import validate
from vla.errors import DataError

IMAGES, VIDEO = MINIATURES["lerobot_v21"], MINIATURES["lerobot_v21 video"]
FRONT = "observation.images.front"
ROWS, FILM = "data/chunk-000/episode_000001.parquet", f"videos/chunk-000/{FRONT}/episode_000001.mp4"
"""Files of the second episode, which has five steps."""
in_rows = partial(column, rows=ROWS)


def damaged(tmp_path: Path, kind: str, *damages: Damage, **settings: Any) -> Outcome:
    miniature, root = MINIATURES[kind], tmp_path / "root"
    miniature(root)
    for damage in damages:
        damage(root)
    data = {"format": miniature.format, "columns": miniature.columns.plain()}
    return validated(root, tmp_path / "out", data, **settings)


def flipped_page(name: str) -> Damage:
    """Invert the head of a column's first page."""

    def damage(root: Path) -> None:
        group = pq.ParquetFile(root / ROWS).metadata.row_group(0)
        [chunk] = [item for item in map(group.column, range(group.num_columns)) if item.path_in_schema.startswith(name)]
        share = (chunk.dictionary_page_offset or chunk.data_page_offset) / (root / ROWS).stat().st_size
        flipped(ROWS, share + 1e-9, count=16)(root)

    return damage


def swapped(root: Path) -> None:
    table = pq.read_table(root / ROWS)
    names = {"observation.state": "action", "action": "observation.state"}
    pq.write_table(table.rename_columns([names.get(name, name) for name in table.column_names]), root / ROWS)


def filmed(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Change the frames of the video of the second episode."""
    return lambda root: write_video(root / FILM, change(decode(root / FILM)))


def broken_png(row: int) -> Callable[[list[Any]], list[Any]]:
    def change(values: list[Any]) -> list[Any]:
        content = bytearray(values[row]["bytes"])
        middle = len(content) // 2
        content[middle : middle + 8] = bytes(255 - value for value in content[middle : middle + 8])
        return [*values[:row], {"bytes": bytes(content), "path": None}, *values[row + 1 :]]

    return change


def dark(values: list[Any]) -> list[Any]:
    return [{"bytes": png(np.zeros((8, 10, 3), dtype=np.uint8)), "path": None}] * len(values)


def test_sound_miniatures_of_every_format_pass(tmp_path):
    for kind in MINIATURES:
        assert damaged(tmp_path / kind.replace(" ", "_"), kind).lines == [], kind


EPISODE_DAMAGES: dict[str, tuple[str, Damage, str]] = {
    "bytes of a Parquet page": ("lerobot_v21", flipped_page("action"), f"readable: .*{ROWS}"),
    "a missing Parquet footer": ("lerobot_v21", cut(ROWS, 0.9), "readable: .*expected a complete Parquet file"),
    "no Parquet at all": ("lerobot_v21", lambda root: (root / ROWS).write_text("hello"), "readable: .*Parquet"),
    "an embedded PNG": ("lerobot_v21", in_rows(FRONT, broken_png(3)), "decodable: view front: .*3"),
    "swapped columns": ("lerobot_v21", swapped, "recorded_range: expected the recorded state, found the recorded act"),
    "a number that is none": (
        "lerobot_v21",
        in_rows("action", nan_in_row(2, 1)),
        r"finite: step 2: expected a finite number for action action_1, found nan \(1 of 5 steps\)",
    ),
    "rows of another task": (
        "lerobot_v21",
        in_rows("task_index", in_row(3, 0)),
        "task_index: expected rows of the task 'close the faucet' as listed, found 'open the drawer'",
    ),
    "rows of a task that does not exist": (
        "lerobot_v21",
        in_rows("task_index", in_row(3, 9)),
        r"task_index: expected rows of the task 'close the faucet' as listed, found '\(number 9\)'",
    ),
    "a black camera": ("lerobot_v21", in_rows(FRONT, dark), "black_view: view front: .*black in all 5 frames"),
    "a black camera in a video": ("lerobot_v21 video", filmed(lambda frames: frames * 0), "black_view: view front: "),
    "a frozen camera": (
        "lerobot_v21 video",
        filmed(lambda frames: frames[[2] * 5]),
        "frozen_view: view front: expected a changing picture, found 5 equal frames",
    ),
    "frozen timestamps": (
        "lerobot_v21",
        in_rows("timestamp", lambda times: [0.0] * len(times)),
        r"timestamps: step 1: .* found the same timestamp \(4 of 4 steps\)",
    ),
    "timestamps that go back": (
        "lerobot_v21",
        in_rows("timestamp", lambda times: [*times[:4], 0.0]),
        r"timestamps: step 4: .* found one 0.15 s before it \(1 of 4 steps\)",
    ),
    "a video without an end": ("lerobot_v21 video", cut(FILM, 0.6), f"decodable: view front: .*{FILM}"),
    "an empty video": ("lerobot_v21 video", cut(FILM, 0), f"decodable: view front: .*{FILM}"),
    "too few frames": (
        "lerobot_v21 video",
        filmed(lambda frames: frames[:4]),
        "frames: view front: expected 5 frames, one per step, found 4",
    ),
    "too many frames": (
        "lerobot_v21 video",
        filmed(lambda frames: frames[[0, 1, 2, 3, 4, 3, 2]]),
        "frames: view front: expected 5 frames, one per step, found 7",
    ),
    "too few rows": (
        "lerobot_v21",
        lambda root: pq.write_table(pq.read_table(root / ROWS).slice(0, 4), root / ROWS),
        "(readable|step_count): .*5.*4",
    ),
}


@pytest.mark.parametrize("name", EPISODE_DAMAGES)
def test_an_episode_with_damage_is_quarantined_alone_and_by_name(name, tmp_path):
    kind, damage, message = EPISODE_DAMAGES[name]
    outcome = damaged(tmp_path, kind, damage)
    assert outcome.quarantined == ["episode 1"], outcome.stopped
    assert re.match(f"episode 1: {message}", outcome.lines[0]), outcome.lines
    assert outcome.record["status"] == "passed"


def surplus(root: Path) -> None:
    shutil.copy(root / ROWS, root / "data/chunk-000/episode_000077.parquet")
    shutil.copy(root / ROWS, root / "data/.hidden.parquet")
    (root / "data/LICENSE").write_text("not a kind of file that holds episodes")


def repeated(root: Path) -> None:
    """The third episode, of six steps, becomes a copy of the first six steps of the first."""
    first = pq.read_table(root / "data/chunk-000/episode_000000.parquet").slice(0, 6)
    first = first.set_column(first.column_names.index("episode_index"), "episode_index", pa.array([2] * 6))
    pq.write_table(first, root / "data/chunk-000/episode_000002.parquet")
    cut_episode = json.loads((root / "meta/episodes.jsonl").read_text().splitlines()[0]) | {"length": 6}
    lines = (root / "meta/episodes.jsonl").read_text().splitlines()
    (root / "meta/episodes.jsonl").write_text("\n".join([json.dumps(cut_episode), *lines[1:]]))
    pq.write_table(
        pq.read_table(root / "data/chunk-000/episode_000000.parquet").slice(0, 6),
        root / "data/chunk-000/episode_000000.parquet",
    )
    (root / "meta/episodes_stats.jsonl").unlink()


def test_files_of_no_episode_are_named(tmp_path):
    outcome = damaged(tmp_path, "lerobot_v21", surplus)
    [line] = outcome.lines
    assert line.endswith("expected files of its 3 episodes only, found data/chunk-000/episode_000077.parquet of none")
    assert damaged(tmp_path / "again", "lerobot_v21", surplus, skip=["surplus_files"]).lines == []


def test_videos_of_cameras_that_are_not_used_are_not_surplus(tmp_path):
    miniature = MINIATURES["lerobot_v21 video"]
    miniature(tmp_path / "root")
    columns = miniature.columns.model_copy(update={"views": {"front": FRONT}})
    outcome = validated(tmp_path / "root", tmp_path / "out", {"format": "lerobot_v21", "columns": columns.plain()})
    assert outcome.lines == []


def test_a_copied_episode_is_named_with_its_twin(tmp_path):
    outcome = damaged(tmp_path, "lerobot_v21", repeated, edited("meta/info.json", ', "total_frames": 20', ""))
    [line] = outcome.lines
    assert "episode 0, episode 2 hold equal states and actions" in line


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"total_frames": 20', '"total_frames": 21', "expected 21 steps by the metadata's own total, found 20"),
        ('"total_episodes": 3', '"total_episodes": 4', "expected 4 episodes by the metadata's own total, found 3"),
    ],
)
def test_wrong_totals_stop_the_run(tmp_path, old, new, message):
    outcome = damaged(tmp_path, "lerobot_v21", edited("meta/info.json", old, new))
    assert f"totals: {message}" in outcome.stopped
    assert "Mend what these checks found, or name them in validate.warn_only. Open " in outcome.stopped
    assert outcome.record["status"] == "failed"
    assert damaged(tmp_path / "again", "lerobot_v21", edited("meta/info.json", old, new), warn_only=["totals"]).lines


def test_a_file_that_was_never_there_stops_the_download_or_leaves_its_episode_out(tmp_path):
    with pytest.raises(DataError, match=rf"expected 3 files, found 1 of them missing: {ROWS}\. .*data.select.present"):
        damaged(tmp_path, "lerobot_v21", lambda root: (root / ROWS).unlink())
    data = {"format": "lerobot_v21", "columns": IMAGES.columns.plain(), "select": {"present": True}}
    outcome = validated(tmp_path / "root", tmp_path / "out", data)
    [finding] = outcome.record["findings"]
    assert finding["message"] == "1 of 3 episodes are left out: 1 with missing files"
    assert outcome.record["sources"][0]["left_out"] == {"with missing files": 1}


@pytest.mark.parametrize(
    ("later", "message"),
    [
        (lambda root: (root / FILM).unlink(), f"decodable: view front: .*{FILM}: expected a file, found none"),
        (cut(FILM, 0.5), f"decodable: view front: .*{FILM}: expected .* bytes as at download, found "),
        (lambda root: (root / ROWS).unlink(), f"readable: .*{ROWS}: expected a file, found none"),
    ],
)
def test_a_file_that_changed_since_the_download_quarantines_its_episode(tmp_path, later, message):
    VIDEO(tmp_path / "root")
    data = {"format": VIDEO.format, "columns": VIDEO.columns.plain()}
    outcome = validated(tmp_path / "root", tmp_path / "out", data, later=later)
    assert outcome.quarantined == ["episode 1"]
    assert re.match(f"episode 1: {message}", outcome.lines[0]), outcome.lines


def test_a_number_out_of_place_is_found_by_the_recorded_range(tmp_path):
    """As a flipped bit leaves it, which no format's own checks notice."""

    def change(values: list[Any]) -> list[Any]:
        values[3][2] = -7e30
        return values

    outcome = damaged(tmp_path, "lerobot_v21", in_rows("observation.state", change))
    assert outcome.quarantined == ["episode 1"]
    assert "step 3: expected state observation.state_2 within the recorded " in outcome.lines[0]
    assert outcome.lines[0].endswith("found -7e+30 (1 of 5 steps, 1 of 4 dimensions)")


def test_an_empty_instruction_is_found_in_every_episode_of_its_task(tmp_path):
    empty = [edited("meta/tasks.jsonl", "open the drawer", " ")]
    text = '"tasks": ["open the drawer"]'

    def episodes(root: Path) -> None:
        path = root / "meta/episodes.jsonl"
        path.write_text(path.read_text().replace(text, '"tasks": [" "]'))

    outcome = damaged(tmp_path, "lerobot_v21", *empty, episodes)
    assert outcome.quarantined == ["episode 0", "episode 2"]
    assert outcome.lines[0] == "episode 0: instruction: expected an instruction, found an empty text"


SHARED_FILM = f"videos/{FRONT}/chunk-000/file-000.mp4"


@pytest.mark.parametrize(
    ("kind", "damage", "quarantined", "message"),
    [
        ("lerobot_v30", cut("data/chunk-000/file-000.parquet", 0.5), 3, "readable: .*expected a complete Parquet file"),
        ("lerobot_v30 video", cut(SHARED_FILM, 0.6), 4, "decodable: view front: "),
        (
            "lerobot_v30 video",
            lambda root: write_video(root / SHARED_FILM, decode(root / SHARED_FILM)[:22]),
            1,
            "decodable: view front: .*1\\.1000 s",
        ),
    ],
)
def test_damage_to_a_file_of_several_episodes_is_found_in_those_that_it_hits(
    tmp_path, kind, damage, quarantined, message
):
    outcome = damaged(tmp_path, kind, damage)
    assert len(outcome.quarantined) == quarantined
    assert re.match(f"{outcome.quarantined[-1]}: {message}", outcome.lines[-1]), outcome.lines
    assert bool(outcome.stopped) == (quarantined == outcome.record["episodes"]["total"])


def test_damage_to_images_that_are_streamed_is_found_in_its_episode_alone(tmp_path, monkeypatch):
    """Each episode in row groups of its own: what lies behind the damage can be read."""
    name = "data/chunk-000/file-000.parquet"

    def one_by_one(root: Path) -> None:
        table = pq.read_table(root / name)
        with pq.ParquetWriter(root / name, table.schema, write_page_checksum=True, use_dictionary=False) as writer:
            for start, length in ((0, 3), (3, 5), (8, 2)):
                writer.write_table(table.slice(start, length))

    def spoiled(root: Path) -> None:
        group = pq.ParquetFile(root / name).metadata.row_group(1)
        chunks = [item for item in map(group.column, range(group.num_columns)) if FRONT in item.path_in_schema]
        end = chunks[0].data_page_offset + chunks[0].total_compressed_size
        flipped(name, (end - 20) / (root / name).stat().st_size, count=8)(root)

    monkeypatch.setattr(parquet, "COLUMN_BYTES", 500)
    outcome = damaged(tmp_path, "lerobot_v30", one_by_one, spoiled)
    assert outcome.quarantined == ["episode 1"], outcome.lines
    assert re.match(r"episode 1: decodable: view front: .*CRC", outcome.lines[0]), outcome.lines


def test_a_clip_that_is_not_where_its_episode_table_says_is_found(tmp_path):
    """The third episode's clip begins two frames late; frames are found there all the same."""
    table = "meta/episodes/chunk-000/file-000.parquet"
    begin = f"videos/{FRONT}/from_timestamp"
    outcome = damaged(tmp_path, "lerobot_v30 video", column(begin, lambda times: [*times[:2], 0.8], rows=table))
    assert outcome.quarantined == ["episode 2"], outcome.lines
    assert re.match("episode 2: decodable: view front: .*expected a clip of 6 frames at 20 fps", outcome.lines[0])


def test_files_that_were_hashed_are_compared_with_their_hash(tmp_path):
    """A change that keeps the size, which no reader notices."""
    folder = write_dataset_folder(tmp_path / "dataset", [make_demonstration(seed=seed) for seed in range(3)])
    info = folder / "meta/info.json"
    info.write_text(info.read_text().replace('"robot_type": "sawyer"', '"robot_type": "Sawyer"'))
    data = {"name": "damaged", "format": "lerobot_v30", "columns": IMAGES.columns.plain()}
    paths = {name: tmp_path / name for name in ("episodes", "validation", "report")}

    def run(**settings: Any) -> None:
        cfg = validate.Config.parse({"data": data, "validate": {**SETTINGS, **settings}}, where="test")
        validate.run(cfg, dataset=folder, **paths)

    with pytest.raises(DataError, match=r"contents: meta/info\.json: expected the bytes of the download \(sha256 "):
        run()
    (folder / "meta/stats.json").unlink()
    with pytest.raises(DataError, match=r"contents: meta/stats\.json: .*found no file: run 'dvc repro -f -s download'"):
        run()
    run(skip=["contents"])
    assert any(line.startswith("contents: ") for line in json.loads(paths["validation"].read_text())["not_checked"])
