"""The setting `data.video_backend`: what it chooses, and what is said where the choice is not installed."""

import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from damages import Damage, validated

from tests.formats.miniatures import MINIATURES, Miniature
from vla.data.download import Config, run
from vla.data.sources import DataConfig, open_dataset
from vla.errors import ConfigError
from vla.video_backend import backend_versions

VIDEO = MINIATURES["lerobot_v21 video"]
FILM = "videos/chunk-000/observation.images.front/episode_000001.mp4"


def settings(miniature: Miniature, backend: str) -> dict[str, Any]:
    columns = miniature.columns.plain()
    return {"name": "test", "format": miniature.format, "columns": columns, "video_backend": backend}


def downloaded(miniature: Miniature, folder: Path, damage: Damage = lambda root: None) -> Path:
    """What the download stage leaves of a miniature."""
    miniature(folder / "root")
    damage(folder / "root")
    source = {"source": "local", "local": {"path": str(folder / "root")}}
    values = {"data": settings(miniature, "pyav"), "seed": 0, "download": source}
    run(Config.parse(values, where="test"), dataset=folder / "dataset")
    return folder / "dataset"


def opened(miniature: Miniature, dataset: Path, backend: str) -> Any:
    return open_dataset(DataConfig.parse(settings(miniature, backend), where="test"), dataset)


def spoil_a_picture(root: Path) -> None:
    with av.open(str(root / FILM)) as container:
        picture = container.streams.video[0].index_entries[1]
    content = bytearray((root / FILM).read_bytes())
    content[picture.pos + 8 : picture.pos + 28] = b"\xff" * 20
    (root / FILM).write_bytes(content)


@pytest.fixture
def torchcodec() -> None:
    try:
        backend_versions("torchcodec")
    except ConfigError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("kind", [kind for kind in MINIATURES if kind != "stepwise"])
def test_a_backend_that_is_not_installed_is_missed_when_a_dataset_is_opened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = downloaded(MINIATURES[kind], tmp_path)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(ConfigError, match=r"data\.video_backend: expected torchcodec .*pip install 'vlaflow\[video\]'"):
        opened(MINIATURES[kind], dataset, "torchcodec")


def test_a_backend_that_is_not_installed_is_missed_before_anything_is_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    VIDEO(tmp_path / "root")
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(ConfigError, match=r"data\.video_backend: expected torchcodec"):
        validated(tmp_path / "root", tmp_path / "out", settings(VIDEO, "torchcodec"))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "raise OSError('Could not load it') from OSError('libx.so: no such file')",
            r"found libx\.so: no such file\. ",
        ),
        (
            "raise RuntimeError('Could not load libtorchcodec. Likely causes:\\n 1')",
            r"found Could not load libtorchcodec\. ",
        ),
        ("ffmpeg_major_version = None", "found no FFmpeg that it knows"),
    ],
)
def test_a_backend_that_cannot_be_loaded_says_why(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchcodec.py").write_text(code)
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # afterwards it is as it was
    del sys.modules["torchcodec"]
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=reason):
        backend_versions("torchcodec")


@pytest.mark.usefixtures("torchcodec")
@pytest.mark.parametrize("kind", [kind for kind in MINIATURES if "video" in kind or kind == "behavior_2025"])
def test_the_chosen_backend_decodes(kind: str, tmp_path: Path) -> None:
    dataset = downloaded(MINIATURES[kind], tmp_path)
    data = {backend: opened(MINIATURES[kind], dataset, backend) for backend in ("pyav", "torchcodec")}
    episode = data["pyav"].episodes()["episode_id"][0].as_py()
    for view in data["pyav"].schema.views:
        frames = {backend: each.images(episode, view) for backend, each in data.items()}
        np.testing.assert_array_equal(frames["pyav"], frames["torchcodec"])
    tracks = {backend: each.sources[0].dataset._videos._tracks.values() for backend, each in data.items()}
    assert all(track.decoded for track in tracks["pyav"])
    assert not any(track.decoded for track in tracks["torchcodec"])  # PyAV counts what it decodes


@pytest.mark.usefixtures("torchcodec")
def test_validation_reports_damage_that_the_chosen_backend_glosses_over(tmp_path: Path) -> None:
    dataset = downloaded(VIDEO, tmp_path, spoil_a_picture)
    assert len(opened(VIDEO, dataset, "torchcodec").sources[0].dataset.images(1, "front")) == 5
    outcome = validated(tmp_path / "root", tmp_path / "out", settings(VIDEO, "torchcodec"))
    assert outcome.quarantined == ["episode 1"]
    assert outcome.lines[0].startswith("episode 1: decodable: view front: ")
