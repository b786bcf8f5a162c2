import json

import numpy as np
import pytest
from bundles import a_bundle
from PIL import Image

from vla.errors import CheckpointError, ConfigError, DataError
from vla.evaluation.predict import predict_files
from vla.models import inference
from vla.terms import Sensing

STATE = [0.1, -0.2, 0.3]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return a_bundle(tmp_path_factory.mktemp("bundle") / "policy")


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    for view in ("front", "wrist"):
        Image.fromarray(rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)).save(tmp_path / f"{view}.png")
    return {view: tmp_path / f"{view}.png" for view in ("front", "wrist")}


def test_the_answer_is_json_and_equals_the_shared_inference(bundle, files):
    answer = predict_files(bundle.path, images=files, instruction="open the drawer", state=STATE, seed=3)
    assert json.loads(json.dumps(answer)) == answer
    assert answer["action_names"] == ["dx", "dy"]
    assert answer["bundle_digest"] == bundle.digest
    pixels = {view: np.asarray(Image.open(file)) for view, file in files.items()}
    sensed = Sensing(pixels, np.array(STATE, np.float32), 0.0)
    expected = inference.predict_alone(bundle, [sensed], ["open the drawer"], seed=3)
    np.testing.assert_array_equal(np.array(answer["actions"], np.float32), expected[0])


def test_a_missing_state_is_not_made_up(bundle, files):
    with pytest.raises(DataError, match=r"state: expected 3 state values \(x, y, z\), found 0"):
        predict_files(bundle.path, images=files, instruction="open the drawer", state=None, seed=0)


def test_a_missing_or_an_unknown_view_is_refused(bundle, files):
    for images, advice in (
        ({"front": files["front"]}, "Add wrist"),
        ({**files, "side": files["front"]}, "Take out side"),
        ({}, "Add front. Add wrist"),
    ):
        with pytest.raises(DataError, match=rf"one image for each of the views front \(.*\), wrist \(.* {advice}\."):
            predict_files(bundle.path, images=images, instruction="open the drawer", state=STATE, seed=0)


def test_arrays_of_a_file_may_take_the_place_of_images_and_state(bundle, files, tmp_path):
    answer = predict_files(bundle.path, images=files, instruction="open the drawer", state=STATE, seed=3)
    wrist = {"observation.images.wrist": np.asarray(Image.open(files["wrist"])), "observation.state": np.array(STATE)}
    np.savez_compressed(tmp_path / "seen.npz", **wrist)
    given = {"images": {"front": files["front"]}, "observation": tmp_path / "seen.npz", "state": None}
    assert predict_files(bundle.path, **given, instruction="open the drawer", seed=3) == answer


def test_a_key_in_both_places_is_refused(bundle, files, tmp_path):
    np.savez(tmp_path / "seen.npz", front=np.zeros((16, 32, 3), np.uint8), state=np.zeros(3))
    with pytest.raises(DataError, match=r"seen\.npz: expected each key once, found front, state beside it"):
        predict_files(
            bundle.path, images=files, observation=tmp_path / "seen.npz", instruction="open", state=STATE, seed=0
        )


def test_a_file_that_holds_no_arrays_is_refused(bundle, files, tmp_path):
    def refused(name: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            predict_files(
                bundle.path, images=files, observation=tmp_path / name, instruction="open", state=STATE, seed=0
            )

    np.save(tmp_path / "one.npy", np.zeros(3))
    refused("one.npy", r"one\.npy: expected an \.npz file, found none")
    refused("absent.npz", r"absent\.npz: expected an \.npz file, found none")
    np.savez(tmp_path / "objects.npz", front=np.array([{}], dtype=object))
    refused("objects.npz", r"objects\.npz: expected an \.npz file of arrays, found Object arrays cannot be loaded")
    np.savez(tmp_path / "cut.npz", front=np.arange(1000))
    damaged = bytearray((tmp_path / "cut.npz").read_bytes())
    damaged[500] ^= 255
    (tmp_path / "cut.npz").write_bytes(damaged)
    refused("cut.npz", r"cut\.npz: expected an \.npz file of arrays, found Bad CRC-32")


def test_an_image_file_that_is_not_there_or_no_image_is_named(bundle, files, tmp_path):
    with pytest.raises(DataError, match=r"absent\.png: expected an image file"):
        predict_files(
            bundle.path, images={**files, "wrist": tmp_path / "absent.png"}, instruction="open", state=STATE, seed=0
        )
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png: expected a PNG or JPEG image"):
        predict_files(
            bundle.path, images={**files, "wrist": tmp_path / "text.png"}, instruction="open", state=STATE, seed=0
        )


def test_an_instruction_that_is_too_long_is_refused(bundle, files):
    with pytest.raises(ConfigError, match="at most 6 tokens, found 7"):
        predict_files(bundle.path, images=files, instruction="a b c d e f g", state=STATE, seed=0)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path, files):
    with pytest.raises(CheckpointError, match="expected a bundle"):
        predict_files(tmp_path, images=files, instruction="open", state=STATE, seed=0)
