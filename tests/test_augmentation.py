import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla.augmentation import (
    AugmentConfig,
    adjust_intrinsics,
    augment,
    draw,
    moved_depth,
    shifted,
    shifts,
    transformed,
)
from vla.errors import ConfigError

PLAIN = (1.0, 1.0, 1.0)
VIEWS = ("front", "wrist")


def affine(scale: float = 1.0, *, degrees: float = 0.0, right: float = 0.0, down: float = 0.0) -> np.ndarray:
    """Takes places of the new image to places of the old one."""
    angle = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.block([[turn, np.array([[right], [down]])], [np.zeros((1, 2)), np.ones((1, 1))]])


def grey(rows: list[list[int]]) -> np.ndarray:
    """One step of one grey image."""
    return np.repeat(np.array(rows, dtype=np.uint8)[None, None], 3, axis=1)


def augmented(images: np.ndarray, cfg: AugmentConfig, *, presentation: int = 3, seed: int = 0) -> np.ndarray:
    out = images.copy()
    augment(out, cfg, views=VIEWS[: images.shape[1]], seed=seed, presentation=presentation)
    return out


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Shifts of whole pixels.


@given(
    images=hnp.arrays(np.uint8, (2, 3, 4, 5)),
    offset=hnp.arrays(np.int64, 2, elements=st.integers(-6, 6)),
)
def test_a_shift_equals_a_plain_loop_that_repeats_the_edge_pixels(images, offset):
    expected = np.empty_like(images)
    for row in range(4):
        for column in range(5):
            from_row, from_column = min(max(row - offset[0], 0), 3), min(max(column - offset[1], 0), 4)
            expected[:, :, row, column] = images[:, :, from_row, from_column]
    assert np.array_equal(shifted(images, offset), expected)
    channels_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(images, 1, -1)), -1, 1)
    assert np.array_equal(shifted(channels_last, offset), expected)


def test_shifts_cover_the_range_and_depend_on_the_presentation_alone():
    cfg = AugmentConfig(shift_px=2)
    draws = np.stack([shifts(cfg, 0, index, 3) for index in range(300)])
    assert draws.shape == (300, 3, 2)
    assert set(np.unique(draws)) == {-2, -1, 0, 1, 2}
    assert np.array_equal(shifts(cfg, 0, 17, 3), draws[17])
    assert not np.array_equal(shifts(cfg, 1, 17, 3), draws[17])
    assert shifts(AugmentConfig(shift_px=0), 0, 5, 2).tolist() == [[0, 0], [0, 0]]


def test_a_shift_alone_moves_every_step_of_a_view_by_the_same_whole_pixels():
    images = noise(2, 2, 3, 9, 9)
    out = augmented(images, AugmentConfig(shift_px=3))
    for view, offset in enumerate(shifts(AugmentConfig(shift_px=3), 0, 3, 2)):
        np.testing.assert_array_equal(out[:, view], shifted(images[:, view], offset))


# Resampling and colours, by hand.


def test_half_a_pixel_to_the_right_is_the_mean_of_neighbours_with_the_edge_repeated():
    moved = transformed(grey([[0, 100, 200]]), affine(right=0.5), PLAIN)
    assert moved[0, 0].tolist() == [[50, 150, 200]]


def test_an_enlarged_crop_interpolates_between_its_pixels():
    # The right half of four pixels: places 2 to 4 at steps of 0.5, from 2.25 on; the centres are at 2.5 and 3.5.
    moved = transformed(grey([[0, 0, 40, 80]]), affine(0.5, right=2.0, down=0.25), PLAIN)
    assert moved[0, 0].tolist() == [[30, 50, 70, 80]]


def test_a_quarter_turn_moves_pixels_as_on_paper():
    # New (column, row) comes from old (row, 2 - column): the top left of the new image was at the bottom left.
    turn = affine(degrees=-90, down=2.0)
    assert transformed(grey([[1, 2], [3, 4]]), turn, PLAIN)[0, 0].tolist() == [[3, 1], [4, 2]]


def test_brightness_multiplies_and_is_limited():
    out = transformed(grey([[0, 100, 200]]), np.eye(3), (1.5, 1.0, 1.0))
    assert out[0, 0].tolist() == [[0, 150, 255]]


def test_contrast_multiplies_the_distance_from_the_mean_luma():
    out = transformed(grey([[50, 100, 150]]), np.eye(3), (1.0, 0.5, 1.0))
    assert out[0, 0].tolist() == [[75, 100, 125]]


def test_without_saturation_an_image_is_its_luma():
    pixel = np.array([200, 100, 0], dtype=np.uint8).reshape(1, 3, 1, 1)
    # 0.299 * 200 + 0.587 * 100 = 118.5; the weights are rounded to float32, so either neighbour is right.
    assert set(transformed(pixel, np.eye(3), (1.0, 1.0, 0.0)).ravel().tolist()) in ({118}, {119})


def test_colours_follow_each_other_as_one_matrix():
    pixel = np.array([120, 80, 40], dtype=np.uint8).reshape(1, 3, 1, 1)
    luma = np.array([0.299, 0.587, 0.114])
    bright = 1.2 * pixel.ravel()
    contrasted = 0.7 * bright + 0.3 * (luma @ bright)
    expected = 1.4 * contrasted - 0.4 * (luma @ contrasted)
    out = transformed(pixel, np.eye(3), (1.2, 0.7, 1.4)).ravel()
    assert np.abs(out - expected).max() <= 0.51


def test_each_image_has_its_own_mean_luma():
    images = np.concatenate([grey([[0, 40]]), grey([[100, 200]])])
    out = transformed(images, np.eye(3), (1.0, 0.0, 1.0))
    assert out[:, 0].tolist() == [[[20, 20]], [[150, 150]]]


# Draws.


FULL = {"crop": 0.8, "rotate_degrees": 10.0, "brightness": 0.3, "contrast": 0.4, "saturation": 0.5}


@given(presentation=st.integers(0, 2**40), seed=st.integers(0, 2**62))
@settings(max_examples=30)
def test_an_augmentation_is_a_function_of_its_key_and_keeps_the_type(presentation, seed):
    images, cfg = noise(1, 2, 3, 6, 8), AugmentConfig(shift_px=1, **FULL)
    once = augmented(images, cfg, presentation=presentation, seed=seed)
    augmented(images, cfg, presentation=presentation + 1, seed=seed)
    again = augmented(images, cfg, presentation=presentation, seed=seed)
    assert once.dtype == np.uint8
    assert once.shape == images.shape
    np.testing.assert_array_equal(once, again)


def test_presentations_and_seeds_differ():
    images, cfg = noise(1, 2, 3, 16, 16), AugmentConfig(shift_px=0, **FULL)
    outs = [augmented(images, cfg, presentation=p, seed=s).tobytes() for p in range(3) for s in range(2)]
    assert len(set(outs)) == 6


def test_switched_off_changes_no_bit():
    images = noise(2, 2, 3, 7, 5)
    np.testing.assert_array_equal(augmented(images, AugmentConfig(shift_px=0)), images)
    np.testing.assert_array_equal(transformed(images[:, 0], np.eye(3), PLAIN), images[:, 0])


def test_all_steps_and_views_of_a_sample_share_one_draw():
    image = noise(1, 1, 3, 12, 12)
    out = augmented(np.tile(image, (3, 2, 1, 1, 1)), AugmentConfig(shift_px=0, **FULL))
    for step in range(3):
        for view in range(2):
            np.testing.assert_array_equal(out[step, view], out[0, 0])
    assert not np.array_equal(out[0, 0], image[0, 0])


def test_a_view_that_is_coloured_only_keeps_its_place():
    images, colours = noise(1, 2, 3, 12, 12), {"brightness": 0.3}
    moving = {"shift_px": 3, "crop": 0.8, "rotate_degrees": 10.0, "colour_only": ("wrist",)}
    out = augmented(images, AugmentConfig(**moving, **colours))
    np.testing.assert_array_equal(out[:, 1], augmented(images, AugmentConfig(shift_px=0, **colours))[:, 1])
    assert not np.array_equal(out[:, 0], augmented(images, AugmentConfig(shift_px=0, **colours))[:, 0])
    np.testing.assert_array_equal(augmented(images, AugmentConfig(**moving))[:, 1], images[:, 1])
    shift_alone = AugmentConfig(shift_px=3, colour_only=("wrist",))
    np.testing.assert_array_equal(augmented(images, shift_alone)[:, 1], images[:, 1])


def test_a_crop_stays_within_the_image():
    cfg = AugmentConfig(shift_px=0, crop=0.6)
    corners = np.array([[0, 0, 1], [20, 0, 1], [0, 10, 1], [20, 10, 1]]).T
    places = []
    for presentation in range(200):
        drawn = draw(cfg, views=("front",), size=(10, 20), seed=0, presentation=presentation)
        x, y, _ = drawn.affine_V33[0] @ corners
        assert x.min() >= -1e-9
        assert x.max() <= 20 + 1e-9
        assert y.min() >= -1e-9
        assert y.max() <= 10 + 1e-9
        assert x.max() - x.min() == pytest.approx(12)
        places.append((x.min(), y.min()))
    assert np.ptp(places, axis=0) == pytest.approx([8, 4], rel=0.1)


def test_a_rotation_is_about_the_centre_and_covers_both_ways():
    cfg = AugmentConfig(shift_px=0, rotate_degrees=30.0)
    angles = []
    for presentation in range(200):
        matrix = draw(cfg, views=("front",), size=(10, 20), seed=0, presentation=presentation).affine_V33[0]
        np.testing.assert_allclose(matrix @ [10, 5, 1], [10, 5, 1])
        angles.append(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])))
    assert -30 <= min(angles) < -25
    assert 25 < max(angles) <= 30


def test_factors_cover_their_ranges():
    cfg = AugmentConfig(shift_px=0, brightness=0.3, contrast=0.4, saturation=0.5)
    factors = np.array(
        [draw(cfg, views=("front",), size=(4, 4), seed=0, presentation=index).factors for index in range(300)]
    )
    np.testing.assert_allclose(factors.min(axis=0), [0.7, 0.6, 0.5], atol=0.02)
    np.testing.assert_allclose(factors.max(axis=0), [1.3, 1.4, 1.5], atol=0.02)
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.2


def test_a_shift_moves_a_cropped_view_by_its_pixels():
    with_shift, without = (AugmentConfig(shift_px=by, crop=0.5) for by in (3, 0))
    place = {"views": VIEWS, "size": (10, 20), "seed": 0, "presentation": 5}
    moved, still = draw(with_shift, **place), draw(without, **place)
    for view, (down, right) in enumerate(shifts(with_shift, 0, 5, 2)):
        np.testing.assert_allclose(
            moved.affine_V33[view] @ [4 + right, 6 + down, 1], still.affine_V33[view] @ [4, 6, 1]
        )


# Geometry that goes with the image.


def test_intrinsics_project_to_where_the_pixel_has_moved():
    rng = np.random.default_rng(0)
    intrinsics = np.array([[120.0, 0, 32], [0, 110, 24], [0, 0, 1]])
    cfg = AugmentConfig(shift_px=2, crop=0.9, rotate_degrees=20.0)
    matrix = draw(cfg, views=("front",), size=(48, 64), seed=0, presentation=1).affine_V33[0]
    adjusted = adjust_intrinsics(intrinsics, matrix)
    for point in rng.uniform([-1, -1, 2], [1, 1, 5], (20, 3)):
        old, new = intrinsics @ point, adjusted @ point
        np.testing.assert_allclose(matrix @ (new / new[2]), old / old[2])


def test_depth_moves_with_the_image_and_is_never_mixed():
    depth = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    assert moved_depth(depth, affine(degrees=-90, down=2.0)).tolist() == [[3, 1], [4, 2]]
    assert moved_depth(depth, affine(right=0.4)).tolist() == [[1, 2], [3, 4]]
    assert moved_depth(depth, affine(right=5.0)).tolist() == [[2, 2], [4, 4]]


# Settings.


@pytest.mark.parametrize("wrong", [{"crop": 0.0}, {"crop": 1.1}, {"brightness": 1.5}, {"rotate_degrees": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AugmentConfig.parse({"shift_px": 0, **wrong}, where="test")


def test_colour_only_names_views_of_the_policy():
    AugmentConfig(shift_px=0, colour_only=("wrist",)).check_views(VIEWS)
    with pytest.raises(ConfigError, match=r"expected some of front, wrist, found 'frnt'.*'front'"):
        AugmentConfig(shift_px=0, colour_only=("frnt",)).check_views(VIEWS)


def test_the_settings_are_read_without_torch():
    code = "import sys, vla.augmentation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
