"""Transforms: normalisation and back, resizing and shifting, each against hand-made or looped results."""

import numpy as np
import pytest
from builders import make_statistics
from hypothesis import given
from hypothesis import strategies as st

from vla import transforms
from vla.errors import DataError
from vla.normalization import NormStats
from vla.tokenization import Tokenize
from vla.transforms import Processor, TransformsConfig

SETTINGS = {
    "image_size": [4, 4],
    "max_tokens": 4,
    "normalization": {"state": "quantile", "actions": "min_max"},
    "augment": {"shift_px": 2},
}


def row(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


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
    assert np.moveaxis(out, 2, -1).flags["C_CONTIGUOUS"]


def test_a_missing_view_is_named(processor):
    with pytest.raises(DataError, match=r"expected the views wrist, front, found front\. Add wrist"):
        processor.images({"front": np.zeros((1, 4, 4, 3), dtype=np.uint8)})


def test_state_and_actions_use_their_own_statistics_and_methods(processor):
    assert (processor.state.method, processor.actions.method) == ("quantile", "min_max")
    assert processor.actions.forward(row(4, 8)).tolist() == [[1, 1]]


def test_a_processor_normalises_the_differences_of_delta_actions_and_restores_raw_actions():
    actions = make_statistics([[0.0, -2.0], [4.0, 2.0]])
    delta = [{"actions": [1, 2], "state": [0, 1]}]
    stats = NormStats(make_statistics([[0.0], [4.0]]), actions, {"delta_actions": delta})
    cfg = TransformsConfig.parse({**SETTINGS, "delta_actions": delta}, where="test")
    processor = Processor.make(cfg, [], stats, Tokenize.train(["open"], max_tokens=4))
    state, chunk = np.array([3.0], np.float32), np.array([[4, 5], [0, 1]], dtype=np.float32)
    # Dimension 1 is 5 - 3 and 1 - 3, the ends of its range.
    normalised = processor.normalise_actions(chunk, state)
    assert normalised.tolist() == [[1, 1], [-1, -1]]
    assert processor.restore_actions(normalised, state).tolist() == chunk.tolist()


def test_statistics_of_another_delta_setting_are_refused():
    first, both = ([{"actions": dims, "state": dims}] for dims in ([0, 1], [0, 2]))
    two, tokenize = make_statistics([[0.0, 0.0], [1.0, 1.0]]), Tokenize.train(["open"], max_tokens=4)
    for wanted, measured in (([], first), (first, []), (both, first)):
        cfg = TransformsConfig.parse({**SETTINGS, "delta_actions": wanted}, where="test")
        with pytest.raises(DataError, match=r"expected statistics of transforms\.delta_actions .*, found those"):
            Processor.make(cfg, [], NormStats(two, two, {"delta_actions": measured}), tokenize)
        # A file that does not say what it was computed of is taken as it is.
        Processor.make(cfg, [], NormStats(two, two), tokenize)
