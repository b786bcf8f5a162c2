import dataclasses
import io

import numpy as np
import pytest
from bundles import a_bundle
from PIL import Image

from vla.delta import Delta
from vla.errors import CheckpointError, DataError
from vla.models import inference
from vla.terms import Sensing


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return a_bundle(tmp_path_factory.mktemp("bundle") / "policy")


def sensing(seed: int, *, size: tuple[int, int] = (16, 32)) -> Sensing:
    rng = np.random.default_rng(seed)
    images = {view: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for view in ("front", "wrist")}
    return Sensing(images, rng.uniform(-1, 1, 3).astype(np.float32), 0.0)


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


def test_a_prediction_is_a_chunk_of_raw_actions(bundle):
    chunks = inference.predict_alone(bundle, [sensing(0)], ["open the drawer"], seed=1)
    assert chunks.shape == (1, 4, 2)
    assert chunks.dtype == np.float32


def test_equal_seeds_give_equal_predictions_and_others_do_not(bundle):
    first, again, other = (
        inference.predict_alone(bundle, [sensing(0)], ["open the drawer"], seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_an_answer_does_not_depend_on_its_neighbours(bundle):
    texts = ["open the drawer", "press the button", "open the drawer"]
    together = inference.predict_alone(bundle, [sensing(0), sensing(1), sensing(2)], texts, seed=0)
    alone = inference.predict_alone(bundle, [sensing(2)], texts[2:], seed=0)
    np.testing.assert_allclose(together[2:], alone, atol=1e-5)


def test_the_instruction_and_every_view_and_the_state_decide_the_actions(bundle):
    base = sensing(0)
    reference = inference.predict_alone(bundle, [base], ["open the drawer"], seed=0)
    changes = [
        (base, "press the button"),
        (Sensing({**base.images, "wrist": sensing(1).images["wrist"]}, base.state_S, 0.0), "open the drawer"),
        (Sensing({**base.images, "front": sensing(1).images["front"]}, base.state_S, 0.0), "open the drawer"),
        (Sensing(base.images, -base.state_S, 0.0), "open the drawer"),
    ]
    for changed, text in changes:
        assert np.abs(inference.predict_alone(bundle, [changed], [text], seed=0) - reference).max() > 1e-4


def test_delta_actions_are_restored_with_the_state_that_each_robot_sensed(bundle):
    processor = dataclasses.replace(bundle.processor, delta=Delta(np.array([1]), np.array([2])))
    sensed, texts = [sensing(0), sensing(1)], ["open the drawer"] * 2
    plain = inference.predict_alone(bundle, sensed, texts, seed=0)
    moved = inference.predict_alone(dataclasses.replace(bundle, processor=processor), sensed, texts, seed=0)
    np.testing.assert_array_equal(moved[:, :, 0], plain[:, :, 0])
    for item, moved_HA, plain_HA in zip(sensed, moved, plain, strict=True):
        np.testing.assert_allclose(moved_HA[:, 1], plain_HA[:, 1] + item.state_S[2], rtol=1e-6)


def test_a_state_of_another_robot_is_refused(bundle):
    other = Sensing(sensing(0).images, np.zeros(2, np.float32), 0.0)
    with pytest.raises(DataError, match=r"state: expected 3 values \(x, y, z\), found 2"):
        inference.observe(bundle, [sensing(0), other], ["open the drawer"] * 2)


def test_images_of_several_sizes_are_predicted_together(bundle):
    mixed = [sensing(0, size=(20, 20)), sensing(1, size=(64, 48))]
    together = inference.predict_alone(bundle, mixed, ["open the drawer"] * 2, seed=0)
    alone = inference.predict_alone(bundle, mixed[1:], ["open the drawer"], seed=0)
    np.testing.assert_allclose(together[1:], alone, atol=1e-5)


def test_a_policy_that_diverged_is_refused(tmp_path):
    diverged = a_bundle(tmp_path / "policy")
    next(diverged.policy.parameters()).data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="its training diverged"):
        inference.predict_alone(diverged, [sensing(0)], ["open the drawer"], seed=0)


def test_a_missing_view_is_named(bundle):
    only_front = Sensing({"front": np.zeros((16, 32, 3), np.uint8)}, np.zeros(3, np.float32), 0.0)
    with pytest.raises(DataError, match=r"expected the views front, wrist, found front\. Add wrist"):
        inference.observe(bundle, [only_front], ["open the drawer"])


def test_a_png_is_decoded_to_its_pixels_and_grey_becomes_rgb():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(inference.decode_image(png(image), where="x"), image)
    assert inference.decode_image(png(image[:, :, 0]), where="x").shape == (2, 3, 3)


@pytest.mark.parametrize("data", [b"", b"no image", png(sensing(0).images["front"])[:700]])
def test_bytes_that_are_no_whole_image_are_refused(data):
    with pytest.raises(DataError, match="front: expected a PNG or JPEG image"):
        inference.decode_image(data, where="front")
