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
    for images in ({"front": files["front"]}, {**files, "side": files["front"]}, {}):
        with pytest.raises(DataError, match="expected one file for each of the views front, wrist"):
            predict_files(bundle.path, images=images, instruction="open the drawer", state=STATE, seed=0)


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
