"""Transforms: normalisation and back, tokens, resizing and shifting, each against hand-made or looped results."""

import json

import numpy as np
import pytest
from builders import make_statistics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla import transforms
from vla.augmentation import AugmentConfig
from vla.errors import ConfigError, DataError
from vla.normalization import Normalize, NormStats, Statistics
from vla.transforms import Processor, Tokenize, TransformsConfig

METHODS = ("min_max", "mean_std", "quantile")
SETTINGS = {
    "image_size": [4, 4],
    "max_tokens": 4,
    "normalization": {"state": "quantile", "actions": "min_max"},
    "augment": {"shift_px": 2},
}


def row(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


# Normalize.


def test_min_max_maps_the_range_to_minus_one_and_one():
    normalize = Normalize(make_statistics([[0.0, 10.0], [4.0, 20.0]]), "min_max")
    assert normalize.forward(row(0, 10)).tolist() == [[-1, -1]]
    assert normalize.forward(row(4, 15)).tolist() == [[1, 0]]


def test_mean_std_maps_the_mean_to_zero_and_a_deviation_to_one():
    # Mean 2, population standard deviation 2.
    normalize = Normalize(make_statistics([[0.0], [4.0]]), "mean_std")
    assert normalize.forward(np.array([[2.0], [4.0], [-2.0]], dtype=np.float32)).tolist() == [[0], [1], [-2]]


def test_quantile_maps_the_outer_quantiles_to_minus_one_and_one():
    # 0 to 100 in steps of 1: q01 = 1, q99 = 99.
    normalize = Normalize(make_statistics(np.arange(101.0)[:, None]), "quantile")
    assert normalize.forward(np.array([[1.0], [50.0], [99.0]], dtype=np.float32)).tolist() == [[-1], [0], [1]]


@pytest.mark.parametrize("method", METHODS)
@given(
    values=hnp.arrays(np.float32, (7, 3), elements=st.floats(-1000, 1000, width=32)),
    raw=hnp.arrays(np.float32, (2, 5, 3), elements=st.floats(-1000, 1000, width=32)),
)
def test_inverse_takes_forward_back_in_every_dimension_that_varies(method, values, raw):
    normalize = Normalize(make_statistics(values), method)
    back = normalize.inverse(normalize.forward(raw))
    # float32 resolves 1e-7 of the largest value involved: the raw one or the offset.
    np.testing.assert_allclose(back[..., ~normalize.degenerate], raw[..., ~normalize.degenerate], atol=1e-3)
    assert back.dtype == np.float32
    assert back.shape == raw.shape


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_dimension_becomes_zero_and_comes_back_as_its_constant(method):
    normalize = Normalize(make_statistics([[5.0, 0.0], [5.0, 1.0], [5.0, 2.0]]), method)
    assert normalize.degenerate.tolist() == [True, False]
    assert normalize.forward(row(5, 1)).tolist() == [[0, 0]]
    # Not even a value that training never saw is blown up.
    assert normalize.forward(row(7, 1)).tolist() == [[0, 0]]
    assert normalize.inverse(row(123, 0)).tolist() == [[5, 1]]


@pytest.mark.parametrize(
    ("low", "high", "is_degenerate"),
    # The limit is 1e-4 for values around 0 and grows with the median beyond 1: 1e-2 around 100.
    [(0.0, 0.99e-4, True), (0.0, 1.1e-4, False), (100.0, 100.0099, True), (100.0, 100.011, False)],
)
def test_a_range_is_degenerate_relative_to_the_size_of_its_median(low, high, is_degenerate):
    assert Normalize(make_statistics([[low], [high]]), "min_max").degenerate.tolist() == [is_degenerate]


def test_the_degenerate_limit_scales_with_its_setting():
    stats = make_statistics([[0.0], [5e-4]])
    assert not Normalize(stats, "min_max").degenerate[0]
    assert Normalize(stats, "min_max", degenerate_scale=10.0).degenerate[0]


def test_only_min_max_clips_and_only_when_asked():
    stats = make_statistics([[0.0], [4.0]])
    outside = np.array([[-4.0], [8.0]], dtype=np.float32)
    assert Normalize(stats, "min_max").forward(outside).tolist() == [[-3], [3]]
    assert Normalize(stats, "min_max").forward(outside, clip=True).tolist() == [[-1], [1]]
    for method in ("mean_std", "quantile"):
        normalize = Normalize(stats, method)
        assert np.array_equal(normalize.forward(outside, clip=True), normalize.forward(outside))


def test_statistics_of_the_wrong_number_of_values_are_refused():
    plain = make_statistics([[0.0, 1.0], [4.0, 5.0]]).to_plain()
    with pytest.raises(DataError, match=r"stats\.json: expected 2 values of each statistic, found 1 of q99"):
        Statistics.from_plain({**plain, "q99": [1.0]}, where="stats.json")


def test_missing_statistics_are_named():
    plain = make_statistics([[0.0], [4.0]]).to_plain()
    del plain["q50"]
    with pytest.raises(DataError, match=r"stats\.json: .*missing q50"):
        Statistics.from_plain(plain, where="stats.json")


def test_norm_stats_survive_a_round_trip_in_openpis_layout(tmp_path):
    path = tmp_path / "norm_stats.json"
    written = NormStats(make_statistics([[0.1], [0.7]]), make_statistics([[1.0, 2.0], [3.0, 9.0]]), {"episodes": 2})
    written.write(path)
    read = NormStats.read(path)
    assert read.provenance == {"episodes": 2}
    for ours, theirs in ((read.state, written.state), (read.actions, written.actions)):
        assert ours.to_plain() == theirs.to_plain()
    values = json.loads(path.read_text())["norm_stats"]
    assert {"mean", "std", "q01", "q99"} <= set(values["state"])
    assert len(values["actions"]["mean"]) == 2


def test_a_file_without_norm_stats_is_refused(tmp_path):
    (tmp_path / "norm_stats.json").write_text('{"norm_stats": {"state": {}}}')
    with pytest.raises(DataError, match="expected"):
        NormStats.read(tmp_path / "norm_stats.json")


# Tokenize.


def test_words_get_ids_and_the_rest_is_padding():
    tokenize = Tokenize.train(["open the drawer"], max_tokens=5)
    ids, is_pad = tokenize("open the drawer")
    assert ids.dtype == np.int64
    assert is_pad.tolist() == [False, False, False, True, True]
    assert ids[3:].tolist() == [0, 0]
    assert len(set(ids[:3].tolist())) == 3
    assert ids[:3].min() > 1
    assert tokenize.vocabulary == 5


def test_no_word_of_a_large_vocabulary_is_lost():
    words = [f"w{index}" for index in range(30_005)]
    tokenize = Tokenize.train([" ".join(words)], max_tokens=1)
    assert tokenize.vocabulary == 30_007
    assert tokenize("w30004")[0][0] > 1


def test_case_does_not_matter_and_an_unknown_word_has_an_id_of_its_own():
    tokenize = Tokenize.train(["open the drawer"], max_tokens=3)
    assert np.array_equal(tokenize("Open THE drawer")[0], tokenize("open the drawer")[0])
    assert tokenize("open the window")[0].tolist() == [*tokenize("open the drawer")[0][:2], 1]


def test_an_instruction_that_is_too_long_is_refused_with_the_setting_to_change():
    tokenize = Tokenize.train(["open the drawer"], max_tokens=2)
    with pytest.raises(ConfigError, match=r"at most 2 tokens, found 3\. Raise transforms\.max_tokens"):
        tokenize("open the drawer")


@given(st.lists(st.text("abc ", min_size=1, max_size=12), min_size=1, max_size=6), st.randoms())
def test_equal_sets_of_instructions_give_equal_ids(instructions, random):
    shuffled = [*instructions, *instructions[:2]]
    random.shuffle(shuffled)
    first, second = Tokenize.train(instructions, max_tokens=20), Tokenize.train(shuffled, max_tokens=20)
    assert first.to_json() == second.to_json()


def test_a_tokenizer_survives_a_json_round_trip_byte_for_byte():
    tokenize = Tokenize.train(["open the drawer", "press the button, now"], max_tokens=6)
    again = Tokenize.from_json(tokenize.to_json(), max_tokens=6)
    assert again.to_json() == tokenize.to_json()
    assert again.vocabulary == tokenize.vocabulary
    for text in ("open the drawer", "press the button, now", "shut the window"):
        for ours, theirs in zip(again(text), tokenize(text), strict=True):
            assert np.array_equal(ours, theirs)


# Images.


def test_an_image_of_the_right_size_is_returned_as_it_is():
    images = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    assert transforms.resize(images, (4, 6)) is images


def test_a_wide_image_is_centred_between_black_bars():
    images = np.full((1, 4, 8, 3), 200, dtype=np.uint8)
    out = transforms.resize(images, (8, 8))
    assert out.shape == (1, 8, 8, 3)
    assert (out[0, 2:6] == 200).all()
    assert (out[0, :2] == 0).all()
    assert (out[0, 6:] == 0).all()


def test_a_tall_image_is_centred_between_black_bars_and_shrunk_by_averaging():
    images = np.zeros((1, 8, 4, 3), dtype=np.uint8)
    images[0, :, 2:] = 100
    out = transforms.resize(images, (4, 4))
    assert (out[0, :, 0] == 0).all()
    assert (out[0, :, 3] == 0).all()
    assert out[0, 1, 1, 0] < 50 < out[0, 1, 2, 0]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_the_content_of_a_resized_image_keeps_its_aspect_ratio(rows, columns, new_rows, new_columns):
    out = transforms.resize(np.full((1, rows, columns, 3), 255, dtype=np.uint8), (new_rows, new_columns))
    inner_rows = int((out[0].max(axis=(1, 2)) > 0).sum())
    inner_columns = int((out[0].max(axis=(0, 2)) > 0).sum())
    factor = min(new_rows / rows, new_columns / columns)
    assert abs(inner_rows - max(1, rows * factor)) <= 0.5
    assert abs(inner_columns - max(1, columns * factor)) <= 0.5
    assert inner_rows == new_rows or inner_columns == new_columns


@given(
    images=hnp.arrays(np.uint8, (2, 3, 4, 5)),
    offsets=hnp.arrays(np.int64, (2, 2), elements=st.integers(-6, 6)),
)
def test_a_shift_equals_a_plain_loop_that_repeats_the_edge_pixels(images, offsets):
    expected = np.empty_like(images)
    for view in range(2):
        for row_index in range(4):
            for column in range(5):
                from_row = min(max(row_index - offsets[view, 0], 0), 3)
                from_column = min(max(column - offsets[view, 1], 0), 4)
                expected[view, :, row_index, column] = images[view, :, from_row, from_column]
    assert np.array_equal(transforms.shift(images, offsets), expected)


def test_shift_offsets_cover_the_range_and_depend_on_the_presentation_alone():
    cfg = AugmentConfig(shift_px=2)
    draws = np.stack([transforms.shift_offsets(cfg, 0, index, 3) for index in range(300)])
    assert draws.shape == (300, 3, 2)
    assert set(np.unique(draws)) == {-2, -1, 0, 1, 2}
    assert np.array_equal(transforms.shift_offsets(cfg, 0, 17, 3), draws[17])
    assert not np.array_equal(transforms.shift_offsets(cfg, 1, 17, 3), draws[17])


def test_no_augmentation_shifts_by_nothing():
    assert transforms.shift_offsets(AugmentConfig(shift_px=0), 0, 5, 2).tolist() == [[0, 0], [0, 0]]


# Processor.


@pytest.fixture
def processor() -> Processor:
    stats = NormStats(make_statistics([[0.0], [4.0]]), make_statistics([[0.0, 0.0], [4.0, 8.0]]), {})
    cfg = TransformsConfig.parse(SETTINGS, where="test")
    return Processor.make(cfg, ["wrist", "front"], stats, Tokenize.train(["open"], max_tokens=4))


def test_views_are_stacked_in_the_policys_order_with_channels_first(processor):
    front = np.full((2, 4, 4, 3), (1, 2, 3), dtype=np.uint8)
    wrist = np.full((2, 4, 4, 3), (4, 5, 6), dtype=np.uint8)
    out = processor.images({"front": front, "wrist": wrist, "unused": front})
    assert out.shape == (2, 2, 3, 4, 4)
    assert out[0, :, :, 0, 0].tolist() == [[4, 5, 6], [1, 2, 3]]
    assert out.flags["C_CONTIGUOUS"]


def test_a_missing_view_is_named(processor):
    with pytest.raises(DataError, match=r"expected the views wrist, front, found front\. Add wrist"):
        processor.images({"front": np.zeros((1, 4, 4, 3), dtype=np.uint8)})


def test_state_and_actions_use_their_own_statistics_and_methods(processor):
    assert (processor.state.method, processor.actions.method) == ("quantile", "min_max")
    assert processor.actions.forward(row(4, 8)).tolist() == [[1, 1]]
