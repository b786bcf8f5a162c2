"""Assets: found at a path; else in the folder of assets, the hub's cache, a stand-in of the hub, in this order."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download
from servers import COMMIT, TAG, HubHandler, Site, ask_instead_of_the_hub, serving

from vla import assets
from vla.assets import AssetSource
from vla.errors import ConfigError, DataError

REPO, FILE = "lab/words", "tokenizer.json"
ON_HUB = AssetSource(source=REPO, revision=COMMIT)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A hub with one model repository, an empty cache, and no folder of assets."""
    monkeypatch.delenv("VLA_ASSETS", raising=False)
    with serving(HubHandler) as site:
        for name in (".gitattributes", FILE, "assets/a/norm_stats.json", "assets/b/c/norm_stats.json"):
            site.files[f"/models/{REPO}/{name}"] = b"hub: " + name.encode()
        ask_instead_of_the_hub(site, monkeypatch, cache=tmp_path / "cache")
        yield site


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What VLA_ASSETS names: an empty folder."""
    folder = tmp_path / "assets"
    folder.mkdir()
    monkeypatch.setenv("VLA_ASSETS", str(folder))
    return folder


def find(source: AssetSource, *files: str) -> assets.Asset:
    return assets.find(source, files or [FILE], where="transforms.tokenizer")


def put(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_a_path_is_a_file_or_a_folder_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = put(tmp_path / "own/tokenizer.json", "own")
    assert find(AssetSource(source=str(tmp_path / "own"))).paths == [file]
    assert [path.resolve() for path in find(AssetSource(source="own/tokenizer.json")).paths] == [file.resolve()]
    other = put(tmp_path / "renamed.json", "own")
    assert find(AssetSource(source=str(other))).paths == [other]


def test_a_path_with_nothing_there_is_an_error_that_speaks_of_the_revision(hub: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found none at .*lab/words\. Correct transforms\.tokenizer\.source; .*revisi"):
        find(AssetSource(source=REPO))
    put(tmp_path / "own/vocab.txt", "")
    with pytest.raises(DataError, match=r"transforms\.tokenizer: expected tokenizer\.json in .*own, found vocab\.txt"):
        find(AssetSource(source=str(tmp_path / "own")))
    assert hub.asked == []


def test_a_revision_belongs_to_a_repository() -> None:
    with pytest.raises(ConfigError, match=r"expected a source OWNER/NAME beside a revision, found '\./words'"):
        AssetSource.parse({"source": "./words", "revision": COMMIT}, where="test")


def test_the_folder_of_assets_comes_before_the_hub(hub: Site, shared: Path) -> None:
    file = put(shared / f"lab--words/{COMMIT}/tokenizer.json", "shared")
    put(shared / f"lab--words/{'f' * 40}/tokenizer.json", "of another commit")
    assert find(ON_HUB).paths == [file]
    assert hub.asked == []


def test_a_folder_of_assets_that_lacks_a_file_is_passed_over(hub: Site, shared: Path) -> None:
    put(shared / f"lab--words/{COMMIT}/README.md", "")
    assert find(ON_HUB).paths[0].read_bytes() == b"hub: tokenizer.json"


def test_what_the_hub_has_sent_once_comes_from_the_cache(hub: Site, tmp_path: Path) -> None:
    first = find(ON_HUB)
    assert first.root == tmp_path / "cache/models--lab--words/snapshots" / COMMIT
    assert f"/{REPO}/resolve/{COMMIT}/assets/a/norm_stats.json" not in hub.got()
    hub.asked.clear()
    assert find(ON_HUB) == first
    assert hub.asked == []


def test_a_file_that_another_program_has_cached_alone_is_found(hub: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hf_hub_download(REPO, FILE, revision=COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find(ON_HUB).paths == [Path(path)]
    hub.asked.clear()
    # Which other files match a pattern is not known without the list of the commit's files.
    with pytest.raises(DataError, match=r"no \*\.json of it in .*cache"):
        find(ON_HUB, "*.json")
    assert hub.asked == []


def test_a_pattern_matches_all_files_of_the_repository_and_folders_below(hub: Site, shared: Path) -> None:
    found = find(ON_HUB, "assets/*/norm_stats.json", FILE)
    assert found.names == ("assets/a/norm_stats.json", "assets/b/c/norm_stats.json", FILE)
    for name in found.names:
        put(shared / f"lab--words/{COMMIT}" / name, f"hub: {name}")
    again = find(ON_HUB, "assets/*/norm_stats.json", FILE)
    assert again.root != found.root
    assert again.names == found.names
    assert again.digest() == found.digest()


def test_offline_a_pattern_is_found_in_the_cache_when_all_that_match_it_are_there(
    hub: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find(ON_HUB, "assets/*/norm_stats.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find(ON_HUB, "assets/*/norm_stats.json") == found
    (found.root / "assets/b/c/norm_stats.json").unlink()
    with pytest.raises(DataError, match=r"found VLA_ASSETS not set, no assets/b/c/norm_stats\.json of it in .*/cache"):
        find(ON_HUB, "assets/*/norm_stats.json")


def test_the_digest_changes_with_a_file(tmp_path: Path) -> None:
    found = find(AssetSource(source=str(put(tmp_path / "tokenizer.json", "a").parent)))
    before = found.digest()
    put(tmp_path / "unused.json", "x")
    assert found.digest() == before
    put(tmp_path / "tokenizer.json", "b")
    assert found.digest() != before


def test_offline_with_nothing_found_the_message_lists_the_places_and_the_command(
    hub: Site, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place = f"lab--words/{COMMIT}"
    with pytest.raises(DataError) as caught:
        find(ON_HUB)
    assert str(caught.value) == (
        f"transforms.tokenizer: expected tokenizer.json of lab/words at {COMMIT}, found no tokenizer.json in "
        f"{shared}/{place} (VLA_ASSETS), no tokenizer.json of it in {tmp_path}/cache (HF_HOME), and HF_HUB_OFFLINE is "
        f"set. Where there is a network, run: hf download lab/words --revision {COMMIT} --include 'tokenizer.json', "
        f"with the same HF_HOME or with --local-dir $VLA_ASSETS/{place}."
    )
    assert hub.asked == []
    monkeypatch.delenv("VLA_ASSETS")
    with pytest.raises(DataError, match="found VLA_ASSETS not set, no tokenizer"):
        find(ON_HUB)


def test_what_a_repository_lacks_is_said_with_what_it_has(hub: Site) -> None:
    with pytest.raises(DataError, match=r"lab/words: expected vocab\.txt at \w+, found \.gitattributes, assets/a/"):
        find(ON_HUB, "vocab.txt")
    with pytest.raises(
        DataError, match=r"expected assets/d/norm_stats\.json at \w+, found assets/a/.*json, assets/b/c"
    ):
        find(ON_HUB, "assets/d/norm_stats.json")


def test_a_branch_or_tag_is_refused_with_its_commit(hub: Site) -> None:
    with pytest.raises(ConfigError, match=rf"transforms\.tokenizer\.revision: .*'{TAG}', which is {COMMIT} today"):
        find(AssetSource(source=REPO, revision=TAG))


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", r"found a gated model\. Accept its terms at http://[\w.:]+/lab/words and set HF_TOKEN"),
        (403, "", r"the hub refused it \(403\)\. Set HF_TOKEN"),
        (404, "RepoNotFound", r"found none that may be read\. Correct transforms\.tokenizer\.source, or set HF_TOKEN"),
    ],
)
def test_a_refusal_is_one_message_with_what_to_do(
    hub: Site, monkeypatch: pytest.MonkeyPatch, status: int, code: str, message: str
) -> None:
    def refuse(self: HubHandler, *asked: str) -> None:
        self.fail(status, code)

    monkeypatch.setattr(HubHandler, "describe", refuse)
    with pytest.raises(
        DataError, match=rf"transforms\.tokenizer: lab/words: .*{message}.*Looked elsewhere before: VLA"
    ):
        find(ON_HUB)
