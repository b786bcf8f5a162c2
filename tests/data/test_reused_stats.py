"""Statistics of another project: at a path or in a repository of the hub, chosen by asset where there are several."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_statistics
from servers import COMMIT, HubHandler, Site, ask_instead_of_the_hub, serving

from vla import artifacts
from vla.data.norm_stats import NormStatsConfig
from vla.data.reused_stats import StatsSource, taken_over
from vla.errors import ConfigError, DataError
from vla.normalization import NormStats

COMPUTED = NormStats(make_statistics([[0.0], [2.0]]), make_statistics([[0.0, 0.0], [4.0, 8.0]]), {})
MEANS = {"trossen": 0.25, "lab/droid": 0.5}
"""Asset -> the mean of all its dimensions."""


def stats_of(mean: float) -> bytes:
    values = {"mean": [mean] * 32, "std": [1.0] * 32, "q01": [-1.0] * 32, "q99": [1.0] * 32}
    return json.dumps({"norm_stats": {"state": values, "actions": values}}).encode()


def put(root: Path, assets: dict[str, float]) -> Path:
    for asset, mean in assets.items():
        file = root / "assets" / asset / "norm_stats.json"
        file.parent.mkdir(parents=True)
        file.write_bytes(stats_of(mean))
    return root


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A hub with the model repositories lab/pi, which has two assets, and lab/one, which has one."""
    monkeypatch.delenv("VLA_ASSETS", raising=False)
    with serving(HubHandler) as site:
        for repo, assets in {"pi": MEANS, "one": {"trossen": 0.75}}.items():
            site.files[f"/models/lab/{repo}/.gitattributes"] = b""
            for asset, mean in assets.items():
                site.files[f"/models/lab/{repo}/assets/{asset}/norm_stats.json"] = stats_of(mean)
        ask_instead_of_the_hub(site, monkeypatch, cache=tmp_path / "cache")
        yield site


def taken(source: str, **more: Any) -> tuple[NormStats, dict[str, Any]]:
    return taken_over(StatsSource(source=source, **more), COMPUTED)


@pytest.mark.parametrize("asset", MEANS)
def test_one_of_several_assets_is_taken_by_its_name(hub: Site, tmp_path: Path, asset: str) -> None:
    there = str(put(tmp_path / "checkpoint", MEANS))
    for source, more in (("lab/pi", {"revision": COMMIT}), (there, {})):
        stats, said = taken(source, asset=asset, **more)
        assert np.array_equal(stats.state.mean, [MEANS[asset]])
        assert np.array_equal(stats.actions.mean, [MEANS[asset]] * 2)
        assert said["reused"]["asset"] == asset
    assert [path for path in hub.got() if path.endswith("norm_stats.json")] == [
        f"/lab/pi/resolve/{COMMIT}/assets/{asset}/norm_stats.json"
    ]


def test_the_only_asset_of_a_repository_is_taken_and_recorded(hub: Site, tmp_path: Path) -> None:
    stats, said = taken("lab/one", revision=COMMIT)
    assert np.array_equal(stats.state.mean, [0.75])
    (tmp_path / "same.json").write_bytes(stats_of(0.75))
    assert said["reused"] == {
        "repository": "lab/one",
        "revision": COMMIT,
        "digest": artifacts.digest_of_value([stats.state.to_plain(), stats.actions.to_plain()]),
        "sha256": artifacts.digest_of_file(tmp_path / "same.json"),
    }


def test_several_assets_without_a_choice_are_named(hub: Site, tmp_path: Path) -> None:
    there = str(put(tmp_path / "checkpoint", MEANS))
    for source, more in (("lab/pi", {"revision": COMMIT}), (there, {})):
        with pytest.raises(
            DataError, match=r"found .*assets/lab/droid/norm_stats.*assets/trossen/norm.*reuse its asset"
        ):
            taken(source, **more)
        # All of them are in the cache by now.
        assert np.array_equal(taken(source, **more, asset="trossen")[0].state.mean, [0.25])


def test_an_asset_that_is_not_there_is_an_error_with_those_that_are(hub: Site, tmp_path: Path) -> None:
    there = str(put(tmp_path / "checkpoint", MEANS))
    with pytest.raises(DataError, match=r"expected statistics of the asset libero, found those of lab/droid, trossen"):
        taken(there, asset="libero")
    with pytest.raises(
        DataError, match=r"norm_stats\.reuse: lab/pi: expected assets/libero/norm_stats\.json at \w+, fou"
    ):
        taken("lab/pi", revision=COMMIT, asset="libero")


def test_a_path_that_is_not_there_is_an_error_that_speaks_of_the_revision() -> None:
    with pytest.raises(
        DataError, match=r"norm_stats\.reuse: .*found none at .*lab/pi\. .*set norm_stats\.reuse\.revis"
    ):
        taken("lab/pi")


def test_a_path_alone_is_a_source_and_an_asset_leads_nowhere_else() -> None:
    settings = {"weighting": "steps", "memory_bytes": 0}
    cfg = NormStatsConfig.parse({**settings, "reuse": "outputs/policy"}, where="test")
    assert cfg.reuse == StatsSource(source="outputs/policy")
    assert NormStatsConfig.parse(cfg.plain(), where="again") == cfg
    with pytest.raises(ConfigError, match=r"test: reuse\.asset: .*found '\.\./secret'"):
        NormStatsConfig.parse({**settings, "reuse": {"source": "x", "asset": "../secret"}}, where="test")
