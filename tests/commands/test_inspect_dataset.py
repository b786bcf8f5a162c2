"""`vla inspect dataset`: one screen about any supported dataset, and parameters that work."""

import importlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from imports import ROOT
from recordings import COLUMNS, write_recordings

from tests.formats.files import write_json
from tests.formats.miniature_behavior import write_behavior
from tests.formats.miniatures import MINIATURES
from vla import cli, config
from vla.commands import inspect_dataset
from vla.commands.inspect_dataset import SIMULATED, TOKENS, count_tokens
from vla.data import download
from vla.data.sources import open_dataset
from vla.sim import world
from vla.stages import STAGES
from vla.tokenization import Tokenize

PARAMS = config.read_params(ROOT / "params.yaml")
SHARED = ROOT.parent / "shared/data"
REAL = {
    "bridge_stepwise": ("stepwise", 25),
    "bridge_v21_images": ("lerobot_v21", 25),
    "g1_v21_video": ("lerobot_v21", 6),
    "gr1_v20_video": ("lerobot_v20", 5),
    "written_v21_video_033": ("lerobot_v21", 50),
    "written_v30_video_044": ("lerobot_v30", 50),
    "written_v30_video_061": ("lerobot_v30", 50),
}
"""Folder -> its format and how many of its episodes are there."""


def shown(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["inspect", "dataset", str(path)]) == 0
    return capsys.readouterr().out


def suggested(screen: str) -> dict[str, Any]:
    """The sections of params.yaml that the screen ends with."""
    sections: dict[str, Any] = yaml.safe_load(screen.partition("in params.yaml")[2].partition(":\n")[2])
    return sections


def config_of(screen: str) -> download.Config:
    """The download stage's settings, and none that another stage would refuse."""
    sections = {**suggested(screen), "seed": 0}
    added = {name: {**PARAMS[name], **sections[name]} for name in sections.keys() & {"rollout", "transforms"}}
    values = {**PARAMS, **sections, **added}
    for module, _ in STAGES.values():
        settings = importlib.import_module(module).Config
        settings.parse({name: values[name] for name in settings.model_fields}, where="test")
    return download.Config.parse({name: sections[name] for name in download.Config.model_fields}, where="test")


def test_recordings_are_shown_without_any_parameters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_recordings(tmp_path / "my recordings")
    monkeypatch.chdir(tmp_path)
    screen = shown(root, capsys)
    lines = dict(line.split(maxsplit=1) for line in screen.splitlines()[:10])
    assert lines["format"].startswith("lerobot_v30, 5 files, ")
    assert lines["episodes"] == "3 with 10 steps, 0.00 hours"
    assert lines["steps"] == "2 to 5 each, half of them up to 3; 40 per second"
    assert lines["views"] == "front at 8 x 8, wrist at 8 x 8"
    assert lines["state"].startswith("4: ")
    assert lines["instructions"] == "2: open the drawer (2)"
    assert "\n                open the faucet (1)\n" in screen
    assert lines["missing"] == "nothing"
    assert suggested(screen) == {
        "data": {"name": "my-recordings", "format": "lerobot_v30", "columns": COLUMNS},
        "download": {"source": "local", "local": {"path": str(root)}},
    }


def test_a_rate_that_the_format_does_not_record_is_left_to_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = shown(stepwise(tmp_path, prompt="reach"), capsys)
    assert "hours" not in screen
    assert "; the format does not record the rate\n" in screen
    assert "to begin with, and with the right fps:" in screen


def test_missing_files_are_counted_and_left_out_by_the_suggestion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_recordings(tmp_path / "recordings")
    next(root.glob("data/**/*.parquet")).unlink()
    screen = shown(root, capsys)
    assert "missing         1 files of 3 episodes: data/chunk-000/file-000.parquet" in screen
    assert suggested(screen)["data"]["select"] == {"present": True}


def stepwise(path: Path, *, prompt: str) -> Path:
    """Two steps of a robot that no simulator knows."""
    rows = {"is_first": [True, False], "state": [[0.0], [1.0]], "action": [[0.0], [1.0]], "prompt": [prompt] * 2}
    pq.write_table(pa.table(rows), path / "part.parquet")
    return path


@pytest.mark.parametrize(
    ("prompt", "transforms"),
    [
        ("put the red cup into the sink .", None),
        ("Put the red cup into the sink, please!", {"max_tokens": 16}),
        ("again and " * 8 + "again", {"max_tokens": 24}),
    ],
)
def test_keys_of_other_sections_are_suggested_where_the_projects_values_do_not_fit(
    prompt: str, transforms: dict[str, int] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections = suggested(shown(stepwise(tmp_path, prompt=prompt), capsys))
    assert sections["rollout"] == {"environment": "none", "tasks": []}
    assert sections.get("transforms") == transforms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Don't stop... go_on at 3.5 cm",
        "put it (gently)down!?",
        "\ufb01nd the \u2462rd caf\u00e9",
        "\u6253\u5f00 \u62bd\u5c49\u3002",
    ],
)
def test_tokens_are_counted_as_the_tokenizer_makes_them(text: str) -> None:
    _, is_padding_L = Tokenize.train([text], 99)(text)
    assert count_tokens(text) == 99 - is_padding_L.sum()


def test_what_is_known_of_the_project_without_loading_it_is_so() -> None:
    assert (world.ROBOT, world.ACTION_NAMES) == SIMULATED
    assert PARAMS["transforms"]["max_tokens"] == TOKENS


@pytest.mark.parametrize("name", MINIATURES)
def test_the_suggestion_for_every_format_can_be_used_as_it_is(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = MINIATURES[name](tmp_path / "recordings")
    screen = shown(tmp_path / "recordings", capsys)
    assert f"format          {MINIATURES[name].format}, " in screen
    assert f"episodes        {len(written)} with {sum(map(len, written))} steps" in screen
    cfg = config_of(screen)
    download.run(cfg, dataset=tmp_path / "dataset")
    assert len(open_dataset(cfg.data, tmp_path / "dataset").episodes()) == len(written)


def annotate(root: Path, episode: int, *skills: str) -> None:
    """Say what is done in an episode, each for a step."""
    spans = [{"skill_description": [text], "frame_duration": [step, step + 1]} for step, text in enumerate(skills)]
    path = root / f"annotations/task-{episode // 10000:04d}/episode_{episode:08d}.json"
    write_json(path, {"skill_annotation": spans})


def test_what_is_said_about_tasks_and_episodes_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_behavior(tmp_path)
    screen = shown(tmp_path, capsys)
    assert "\ntasks           2: closing_faucets, opening_drawers\n" in screen
    assert "\nannotations     0 of 3 episodes\nmissing" in screen
    annotate(tmp_path, 10, "move to", "press", "move to")
    annotate(tmp_path, 10020, "press", "press")
    screen = shown(tmp_path, capsys)
    assert "\nannotations     2 of 3 episodes\nskills          press (3), move to (2)\n" in screen
    annotate(tmp_path, 30, "wave")
    monkeypatch.setattr(inspect_dataset, "ANNOTATED", 2)
    screen = shown(tmp_path, capsys)
    assert "\nannotations     3 of 3 episodes, 2 of them read\nskills          press (3), move to (2)\n" in screen
    write_json(tmp_path / "annotations/task-0000/episode_00000010.json", {})
    assert cli.main(["inspect", "dataset", str(tmp_path)]) == 2
    assert "episode_00000010.json: episode 10: expected skills" in capsys.readouterr().err


@pytest.mark.parametrize("name", REAL)
def test_the_suggestion_for_real_recordings_can_be_used_as_it_is(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not here")
    screen = shown(SHARED / name, capsys)
    assert len(screen.splitlines()) < 40
    data_format, episodes = REAL[name]
    assert f"format          {data_format}, " in screen
    cfg = config_of(screen)
    download.run(cfg, dataset=tmp_path / "dataset")
    assert len(open_dataset(cfg.data, tmp_path / "dataset").episodes()) == episodes


def test_what_was_downloaded_is_shown_as_the_parameters_have_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = (write_recordings(tmp_path / name) for name in ("near", "far"))
    source = {"format": "lerobot_v30", "columns": COLUMNS}
    data = {"name": "near", **source, "mixture": {"far": {**source, "select": {"per_instruction": 1}}}}
    local = {"source": "local", "local": {"path": str(near)}}
    places = {**local, "mixture": {"far": {**local, "local": {"path": str(far)}}}}
    cfg = download.Config.parse({"data": data, "seed": 0, "download": places}, where="test")
    download.run(cfg, dataset=tmp_path / "dataset")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(cfg.plain()))
    monkeypatch.chdir(tmp_path)
    screen = shown(tmp_path / "dataset", capsys)
    assert f"from            kind local, path {near}\n" in screen
    assert "datasets        near (3 episodes), far (2 episodes)\n" in screen
    assert "episodes        5 with 18 steps" in screen
    assert "left out        far: 1 beyond data.select.per_instruction" in screen


def test_another_folder_is_refused_with_what_is_supported_and_what_lies_below(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recordings(tmp_path / "lab/reach")
    (tmp_path / "lab/notes.txt").write_text("see reach")
    assert cli.main(["inspect", "dataset", str(tmp_path / "lab")]) == 2
    said = capsys.readouterr().err
    assert f"found notes.txt, reach. Did you mean {tmp_path}/lab/reach?" in said
    assert "\n  lerobot_v30     LeRobot v3.0 datasets" in said


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"codebase_version": "v1.6"}', "expected the codebase_version of a supported format, found 'v1.6'"),
        ('{"fps": 10}', "expected the codebase_version of a supported format, found None"),
        ('{"codebase_version": ', "expected JSON, found Expecting value"),
        ("[]", "expected a mapping, found []"),
    ],
)
def test_a_damaged_or_unsupported_description_is_named_with_the_versions_that_are_supported(
    content: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text(content)
    assert cli.main(["inspect", "dataset", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/meta/info.json: {fault}" in said
    for version in ("v2.0", "v2.1", "v3.0"):
        assert f"LeRobot {version} datasets" in said


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "dataset", str(tmp_path / "nowhere")]) == 2
    assert "expected a dataset folder, found none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (2_070_000_000_000, "2.07 TB")]
)
def test_bytes_are_shown_in_units_that_people_read(count: int, text: str) -> None:
    from vla.commands.inspect_dataset import in_units

    assert in_units(count) == text
