import json

import numpy as np
import pytest
from batches import SETTINGS
from bundles import a_bundle, with_still
from PIL import Image

from vla import cli


@pytest.fixture
def bundle(tmp_path):
    return a_bundle(tmp_path / "policy", passport={"seed": 0, "inputs": {"dataset": "0123456789abcdef"}})


def test_a_bundle_on_one_screen(bundle, capsys):
    assert cli.main(["inspect", "bundle", str(bundle.path)]) == 0
    shown = capsys.readouterr().out
    assert bundle.digest in shown
    assert "front, wrist at 16 x 32" in shown
    assert "3: x, y, z (quantile)" in shown
    assert "2: dx, dy (min_max)" in shown
    assert "made by inputs  dataset 0123456789ab" in shown
    assert "degenerate      none" in shown
    assert len(shown.splitlines()) < 25


def test_a_bundle_names_the_dimensions_that_it_is_blind_to(tmp_path, capsys):
    still = a_bundle(tmp_path / "policy", norm_stats=with_still(state=(0, 2), actions=(1,)))
    assert cli.main(["inspect", "bundle", str(still.path)]) == 0
    assert "degenerate      state x, z; actions dy" in capsys.readouterr().out


def test_a_bundle_that_sees_several_steps_says_how_far_apart(tmp_path, capsys):
    settings = {**SETTINGS["paligemma_vla"], "window_steps": 3, "step_stride": 2}
    several = a_bundle(tmp_path / "policy", policy="paligemma_vla", settings=settings, image_size=(16, 16))
    assert cli.main(["inspect", "bundle", str(several.path)]) == 0
    assert "window          3 observations, one every 2 steps" in capsys.readouterr().out


def test_a_folder_that_is_no_bundle_is_refused(tmp_path, capsys):
    assert cli.main(["inspect", "bundle", str(tmp_path)]) == 2
    assert "expected a bundle" in capsys.readouterr().err


def test_a_prediction_for_image_files_is_json(bundle, tmp_path, capsys):
    for view in ("front", "wrist"):
        Image.fromarray(np.zeros((16, 32, 3), dtype=np.uint8)).save(tmp_path / f"{view}.png")
    words = ["predict", "--policy", str(bundle.path), "--instruction", "open the drawer", "--state=-0.1,0.2,1e-3"]
    words += [word for view in ("front", "wrist") for word in ("--image", f"{view}={tmp_path}/{view}.png")]
    assert cli.main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert np.shape(first["actions"]) == (4, 2)
    assert cli.main([*words, "--seed", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["actions"] != first["actions"]
    np.savez(tmp_path / "seen.npz", **{"observation.images.wrist": np.zeros((16, 32, 4), np.uint8)})
    words = [*words[:-2], "--observation", str(tmp_path / "seen.npz")]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out) == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", "front.png"], "--image: expected KEY=FILE, found 'front.png'."),
        (["--image", "front=a.png", "--image", "front=b.png"], "expected each key once, found 'front' twice."),
        (["--state", "1,two"], "--state: expected numbers with commas between, found '1,two'."),
        (["--image", "a::b:c=a.png"], "a.png: expected an image file"),
        (["--observation", "a.npz"], "a.npz: expected an .npz file, found none."),
        ([], "expected one image for each of the views front (or observation.images.front), wrist"),
    ],
)
def test_wrong_words_of_a_prediction_are_refused(bundle, capsys, words, message):
    assert cli.main(["predict", "--policy", str(bundle.path), "--instruction", "open the drawer", *words]) == 2
    assert message in capsys.readouterr().err
