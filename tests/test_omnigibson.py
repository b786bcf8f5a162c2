"""The colours that stand for instances, by hand."""

import numpy as np

from vla.omnigibson import instance_ids, palette


def test_the_palette_is_an_even_grid_without_fractions() -> None:
    # 28 colours need four levels: 16, 89, 162, 235 of the first channel and 16, 90.7, 165.3, 240 of the others.
    assert palette(28)[[0, 1, 4, 16, 27]].tolist() == [
        [16, 16, 16],
        [16, 16, 90],
        [16, 90, 16],
        [89, 16, 16],
        [89, 165, 240],
    ]
    assert palette(27)[26].tolist() == [235, 240, 240]
    assert palette(1).tolist() == [[16, 16, 16]]


def test_the_nearest_colour_counts_and_stands_for_the_id_in_its_place() -> None:
    image = np.array([[[16, 16, 16], [20, 12, 90]], [[16, 16, 54], [16, 16, 52]]], dtype=np.uint8)
    ids = [300, 7, *range(1000, 1026)]
    assert instance_ids(image, ids).tolist() == [[300, 7], [7, 300]]
