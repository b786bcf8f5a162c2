import base64
import io

import mlflow
import numpy as np
import pandas as pd
import pytest
from bundles import a_bundle
from fastapi.testclient import TestClient
from mlflow.pyfunc import scoring_server
from PIL import Image

from vla.errors import DataError
from vla.models import inference
from vla.serving import pyfunc
from vla.terms import Sensing

STATE = [0.1, -0.2, 0.3]


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 32, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return a_bundle(tmp_path_factory.mktemp("bundle") / "policy")


@pytest.fixture(scope="module")
def logged(bundle, tmp_path_factory):
    """The model as MLflow stores it, and as it loads it again."""
    folder = tmp_path_factory.mktemp("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = mlflow.create_experiment("test", artifact_location=(folder / "artifacts").as_uri())
    with mlflow.start_run(experiment_id=experiment):
        info = mlflow.pyfunc.log_model(
            name="policy",
            python_model=pyfunc.__file__,
            artifacts={"bundle": str(bundle.path)},
            signature=pyfunc.signature(bundle),
            input_example=pyfunc.input_example(bundle),
            pip_requirements=pyfunc.requirements(),
        )
    yield folder, mlflow.pyfunc.load_model(info.model_uri)
    mlflow.set_tracking_uri(before)


def expected(bundle, *seeds: int, seed: int) -> np.ndarray:
    pixels = [{"front": png(n), "wrist": png(n + 1)} for n in seeds]
    sensed = [
        Sensing(
            {view: inference.decode_image(data, where=view) for view, data in images.items()},
            np.array(STATE, np.float32),
            0.0,
        )
        for images in pixels
    ]
    return inference.predict_alone(bundle, sensed, ["open the drawer"] * len(seeds), seed=seed)


def rows(*seeds: int) -> pd.DataFrame:
    return pd.DataFrame(
        [{"front": png(n), "wrist": png(n + 1), "state": STATE, "instruction": "open the drawer"} for n in seeds]
    )


def test_the_loaded_model_predicts_what_the_bundle_predicts(bundle, logged):
    answer = logged[1].predict(rows(0, 10), params={"seed": 4})
    assert list(answer.columns) == ["actions"]
    np.testing.assert_allclose(np.array(answer["actions"].tolist()), expected(bundle, 0, 10, seed=4), atol=1e-6)


def test_the_seed_defaults_to_zero(bundle, logged):
    answer = logged[1].predict(rows(0))
    np.testing.assert_allclose(np.array(answer["actions"].tolist()), expected(bundle, 0, seed=0), atol=1e-6)


def test_base64_text_is_taken_for_an_image(bundle, logged):
    frame = rows(0)
    for view in ("front", "wrist"):
        frame[view] = [base64.b64encode(data).decode() for data in frame[view]]
    answer = logged[1].predict(frame)
    np.testing.assert_allclose(np.array(answer["actions"].tolist()), expected(bundle, 0, seed=0), atol=1e-6)


def test_mlflows_http_server_answers_the_same(bundle, logged):
    client = TestClient(scoring_server.init(logged[1]))
    images = {view: base64.b64encode(png(n)).decode() for view, n in (("front", 0), ("wrist", 1))}
    record = {**images, "state": STATE, "instruction": "open the drawer"}
    answer = client.post("/invocations", json={"dataframe_records": [record], "params": {"seed": 4}})
    assert answer.status_code == 200, answer.text
    actions = [row["actions"] for row in answer.json()["predictions"]]
    np.testing.assert_allclose(np.array(actions), expected(bundle, 0, seed=4), atol=1e-6)


def test_the_stored_model_holds_the_bundle_and_no_pickle(bundle, logged):
    names = {item.name for item in logged[0].rglob("*") if item.is_file()}
    assert {"model.safetensors", "passport.json", "norm_stats.json", "MLmodel", "pyfunc.py"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]


def test_the_requirements_name_this_package_alone(logged):
    text = next(logged[0].rglob("requirements.txt")).read_text().split()
    assert len([line for line in text if line.startswith("vlaflow==")]) == 1


def test_a_column_that_is_missing_is_refused_by_the_signature(logged):
    with pytest.raises(mlflow.exceptions.MlflowException, match="wrist"):
        logged[1].predict(rows(0).drop(columns="wrist"))


def test_text_that_is_no_image_is_refused(logged):
    frame = rows(0)
    frame["front"] = ["!"]
    with pytest.raises(DataError, match="row 0: front: expected an encoded image"):
        logged[1].predict(frame)


def test_the_example_fits_the_policy_whatever_its_views(tmp_path):
    other = a_bundle(tmp_path / "policy", views=("top",), state_names=("x",))
    model = pyfunc.PolicyModel()
    model._bundle = other
    answer = model.predict(None, pyfunc.input_example(other))
    assert np.array(answer["actions"].tolist()).shape == (1, 4, 2)
    assert pyfunc.signature(other).inputs.input_names() == ["top", "state", "instruction"]
