import pytest

from vla.caching import cache_features
from vla.data.features import FeatureMarker
from vla.errors import ConfigError, DataError

PARAMS = {
    "cache_features": {"enabled": False},
    "data": {
        "name": "toy",
        "format": "lerobot_v30",
        "columns": {"state": "s", "actions": "a", "views": {"front": "f"}},
    },
    "policy": {"name": "tiny_vla", "width": 128},
    "transforms": {
        "image_size": [64, 64],
        "max_tokens": 8,
        "normalization": {"state": "min_max", "actions": "min_max"},
        "augment": {"shift_px": 0},
    },
}


def run(params, features):
    cfg = cache_features.Config.parse(params, where="params.yaml")
    nothing = features.parent / "not read"
    cache_features.run(cfg, dataset=nothing, episodes=nothing, norm_stats=nothing, features=features)


def test_without_caching_the_folder_holds_a_marker_that_says_why(tmp_path):
    run(PARAMS, tmp_path / "features")
    assert [path.name for path in (tmp_path / "features").iterdir()] == ["meta.json"]
    marker = FeatureMarker.read(tmp_path / "features")
    assert marker == FeatureMarker(enabled=False, reason="cache_features.enabled is false")


def test_caching_for_a_policy_without_a_frozen_part_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'tiny_vla', which has no frozen part"):
        run(PARAMS | {"cache_features": {"enabled": True}}, tmp_path / "features")
    assert not (tmp_path / "features").exists()


def test_only_the_policys_name_is_read():
    cfg = cache_features.Config.parse(PARAMS, where="params.yaml")
    assert cfg.plain()["policy"] == {"name": "tiny_vla"}


def test_a_marker_with_another_key_is_refused(tmp_path):
    (tmp_path / "meta.json").write_text('{"enabled": false, "reason": "", "shards": 3}')
    with pytest.raises(DataError, match="shards"):
        FeatureMarker.read(tmp_path)
