"""Statistics of columns and images against numpy on the raw values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vla.sim import statistics


def test_statistics_of_a_small_column() -> None:
    stats = statistics.of_column(np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]], dtype=np.float32))
    assert stats["min"].tolist() == [0, 5]
    assert stats["max"].tolist() == [4, 5]
    assert stats["mean"].tolist() == [2, 5]
    assert stats["std"].tolist() == pytest.approx([np.sqrt(8 / 3), 0])
    assert stats["q50"].tolist() == [2, 5]
    assert stats["count"].tolist() == [3]


def test_a_column_of_single_numbers_has_one_dimension() -> None:
    assert statistics.of_column(np.array([False, True]))["mean"].tolist() == [0.5]


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_counted_images_have_the_statistics_of_their_pixels(images: np.ndarray) -> None:
    pixels = images.reshape(-1, 3)
    counts = np.stack([np.bincount(channel, minlength=256) for channel in pixels.T])
    stats = statistics.of_images(counts, len(images))
    exact = statistics.of_column(pixels / 255)
    for name in statistics.NAMES:
        if name != "count":
            assert stats[name].shape == (3, 1, 1)
            np.testing.assert_allclose(stats[name].ravel(), exact[name], atol=1e-7)
    assert stats["count"].tolist() == [len(images)]
