"""The source `hub`, against a stand-in of the hub on this machine."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from recordings import COLUMNS, DATA_FILE, write_recordings
from servers import COMMIT, TAG, HubHandler, Site, ask_instead_of_the_hub, etag, serving

from vla.data import download
from vla.data.manifest import Manifest
from vla.data.sources import open_dataset
from vla.errors import ConfigError, DataError

REPO = "lab/reach"


def config(**hub: Any) -> download.Config:
    values = {
        "data": {"name": "test", "format": "lerobot_v30", "columns": COLUMNS},
        "seed": 0,
        "download": {"source": "hub", "hub": {"repo": REPO, "revision": COMMIT, **hub}},
    }
    return download.Config.parse(values, where="test")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A hub with one dataset and files that do not belong to it, and an empty cache."""
    written = tmp_path / "written"
    write_recordings(written)
    with serving(HubHandler) as site:
        for path in written.rglob("*.*"):
            site.files[f"/{REPO}/{path.relative_to(written).as_posix()}"] = path.read_bytes()
        site.files[f"/{REPO}/.gitattributes"] = b"*.parquet filter=lfs\n"
        site.files[f"/{REPO}/README.md"] = b"# reach\n"
        site.files[f"/{REPO}/data/chunk-000/file-777.parquet"] = b"of no episode"
        ask_instead_of_the_hub(site, monkeypatch, cache=tmp_path / "cache")
        yield site


def test_the_needed_files_of_a_repository_are_fetched_and_pointed_to(hub: Site, tmp_path: Path) -> None:
    download.run(config(), dataset=tmp_path / "dataset")
    assert [path.name for path in (tmp_path / "dataset").iterdir()] == ["manifest.json"]
    manifest = Manifest.read(tmp_path / "dataset")
    assert manifest.source == {"kind": "hub", "repo": REPO, "revision": COMMIT, "allow": None}
    assert Path(manifest.root or "") == tmp_path / "cache/datasets--lab--reach/snapshots" / COMMIT
    contents = {entry.path: hub.files[f"/{REPO}/{entry.path}"] for entry in manifest.files}
    assert DATA_FILE in contents
    assert not {"README.md", "data/chunk-000/file-777.parquet"} & contents.keys()
    assert f"/datasets/{REPO}/resolve/{COMMIT}/README.md" not in hub.got()
    assert len(open_dataset(config().data, tmp_path / "dataset").episodes()) == 3


def test_large_files_carry_the_hash_that_the_hub_tells(hub: Site, tmp_path: Path) -> None:
    download.run(config(), dataset=tmp_path / "dataset")
    entry = next(entry for entry in Manifest.read(tmp_path / "dataset").files if entry.path == DATA_FILE)
    assert entry.sha256 == etag(hub.files[f"/{REPO}/{DATA_FILE}"])
    assert entry.mtime_ns is None


def test_the_identity_of_the_data_does_not_depend_on_where_the_cache_lies(
    hub: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download.run(config(), dataset=tmp_path / "first")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "other"))
    download.run(config(), dataset=tmp_path / "second")
    first, second = (Manifest.read(tmp_path / name) for name in ("first", "second"))
    assert first.root != second.root
    assert first.digest == second.digest


def test_a_second_download_asks_the_hub_for_nothing(hub: Site, tmp_path: Path) -> None:
    download.run(config(), dataset=tmp_path / "dataset")
    hub.asked.clear()
    download.run(config(), dataset=tmp_path / "dataset")
    assert hub.asked == []


def test_a_connection_that_breaks_is_continued_where_it_broke(
    hub: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50)  # what is less than this of a piece is asked for again
    hub.breaks[f"/{REPO}/{DATA_FILE}"] = [120]
    download.run(config(), dataset=tmp_path / "dataset")
    asked = [bytes_ for kind, path, bytes_ in hub.asked if kind == "GET" and path.endswith(DATA_FILE)]
    assert asked == ["", "bytes=100-"]
    assert (Path(Manifest.read(tmp_path / "dataset").root or "") / DATA_FILE).read_bytes() == hub.files[
        f"/{REPO}/{DATA_FILE}"
    ]


def test_a_tag_is_refused_with_the_commit_that_it_stands_for(hub: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"download\.hub\.revision: .*found '{TAG}', which is {COMMIT} today"):
        download.run(config(revision=TAG), dataset=tmp_path / "dataset")


def test_a_repository_that_does_not_exist_is_an_error(hub: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lab/rech: expected a dataset on .*Correct download\.hub\.repo, or set HF_TO"):
        download.run(config(repo="lab/rech"), dataset=tmp_path / "dataset")


def test_a_commit_that_does_not_exist_is_an_error(hub: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected the commit f{40}, found no such revision"):
        download.run(config(revision="f" * 40), dataset=tmp_path / "dataset")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, r"the hub refused it \(403\)\. Set HF_TOKEN"),
        (429, "how often it may be asked"),
        (503, "Check the network"),
    ],
)
def test_what_the_hub_answers_is_said_with_what_to_do(
    hub: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's own tries
    hub.statuses[f"/api/datasets/{REPO}/tree/{COMMIT}"] = [status] * 9
    with pytest.raises(DataError, match=message):
        download.run(config(), dataset=tmp_path / "dataset")


def test_a_gated_repository_names_the_page_where_its_terms_are(
    hub: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gated(self: HubHandler, repo: str, what: str, revision: str) -> None:
        self.fail(403, "GatedRepo")

    monkeypatch.setattr(HubHandler, "describe", gated)
    with pytest.raises(DataError, match=rf"found a gated dataset\. Accept its terms at {hub.url}/datasets/{REPO} and"):
        download.run(config(), dataset=tmp_path / "dataset")


def test_only_what_the_patterns_allow_counts_as_there(hub: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of them missing: data/chunk-000/file-000\.parquet"):
        download.run(config(allow=["meta/*"]), dataset=tmp_path / "dataset")
    download.run(config(allow=["meta/*", "data/*"]), dataset=tmp_path / "dataset")


PROGRAM = """
import json, sys
from pathlib import Path
from vla.data import download
from vla.errors import DataError
cfg = download.Config.parse(json.loads(sys.argv[1]), where="test")
try:
    download.run(cfg, dataset=Path(sys.argv[2]))
except DataError as error:
    sys.exit(str(error))
"""


def run_offline(tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    """The stage in a process of its own, with the environment that users set."""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    words = [sys.executable, "-c", PROGRAM, json.dumps(config().plain()), str(tmp_path / "offline")]
    root = Path(__file__).parents[2]
    return subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True, check=False)


def test_offline_the_cache_is_all_there_is(hub: Site, tmp_path: Path) -> None:
    download.run(config(), dataset=tmp_path / "dataset")
    hub.asked.clear()
    done = run_offline(tmp_path)
    assert done.returncode == 0, done.stderr
    assert hub.asked == []
    assert Manifest.read(tmp_path / "offline") == Manifest.read(tmp_path / "dataset")


def test_offline_an_incomplete_cache_is_an_error(hub: Site, tmp_path: Path) -> None:
    download.run(config(), dataset=tmp_path / "dataset")
    (Path(Manifest.read(tmp_path / "dataset").root or "") / DATA_FILE).unlink()
    done = run_offline(tmp_path)
    assert done.returncode == 1
    assert f"1 of them missing, the first is {DATA_FILE}, and HF_HUB_OFFLINE is set. Run the download" in done.stderr
