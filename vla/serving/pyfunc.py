"""A bundle as an MLflow python model, logged as code: MLflow runs this file, nothing is pickled.

    mlflow.pyfunc.log_model(
        name="policy", python_model=pyfunc.__file__, artifacts={"bundle": str(bundle.path)},
        signature=pyfunc.signature(bundle), input_example=pyfunc.input_example(bundle),
        pip_requirements=pyfunc.requirements(),
    )

One row of the input is one observation: a column per view with the encoded image (PNG or JPEG; base64 text is taken
too), `state` (a list of numbers in raw units) and `instruction`. One row of the output is its action chunk, H lists of
A numbers in raw units. Rows are unrelated, each the first step of an episode: a policy with memory is better served by
a session that keeps it.
"""

import base64
import binascii
import importlib.metadata
import io
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature, set_model
from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema
from PIL import Image

from vla.errors import DataError
from vla.models import bundle as bundles
from vla.models import inference, observed
from vla.models.bundle import Bundle
from vla.terms import Sensing

STATE, INSTRUCTION, ACTIONS = "state", "instruction", "actions"


class PolicyModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow is untyped
    """What MLflow loads and serves."""

    _bundle: Bundle

    def load_context(self, context: Any) -> None:
        """Load the artifact `bundle`. MLflow asks for the name `context`."""
        self._bundle = bundles.load(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The action chunk of each row; the parameter `seed` decides the noise."""
        del context
        rows = model_input.to_dict(orient="records")
        sensed = [_sensing(self._bundle, row, where=f"row {index}") for index, row in enumerate(rows)]
        texts = [str(row[INSTRUCTION]) for row in rows]
        chunks_BHA = inference.predict_alone(self._bundle, sensed, texts, seed=int((params or {}).get("seed", 0)))
        return pd.DataFrame({ACTIONS: chunks_BHA.tolist()})


def signature(bundle: Bundle) -> ModelSignature:
    """Columns and types of the model that serves `bundle`."""
    views = [ColSpec(DataType.binary, view) for view in bundle.spec.views]
    inputs = Schema([*views, ColSpec(Array(DataType.double), STATE), ColSpec(DataType.string, INSTRUCTION)])
    outputs = Schema([ColSpec(Array(Array(DataType.double)), ACTIONS)])
    return ModelSignature(inputs, outputs, ParamSchema([ParamSpec("seed", DataType.long, 0)]))


def input_example(bundle: Bundle) -> pd.DataFrame:
    """One row that the model accepts: grey images, the training data's mean state, an empty instruction."""
    stream = io.BytesIO()
    Image.fromarray(np.full((*bundle.spec.image_size, 3), 128, np.uint8)).save(stream, format="PNG")
    row: dict[str, Any] = dict.fromkeys(bundle.spec.views, stream.getvalue())
    return pd.DataFrame([{**row, STATE: bundle.norm_stats.state.mean.tolist(), INSTRUCTION: ""}])


def requirements() -> list[str]:
    """What the model needs installed: this package, which brings the rest at the versions that it allows."""
    return [f"vlaflow=={importlib.metadata.version('vlaflow')}"]


def _sensing(bundle: Bundle, row: dict[str, Any], *, where: str) -> Sensing:
    images = {
        view: inference.decode_image(_bytes(row[view], where=f"{where}: {view}"), where=f"{where}: {view}")
        for view in bundle.spec.views
    }
    return Sensing(images, observed.read_state(bundle.config, row[STATE], where=f"{where}: {STATE}"), 0.0)


def _bytes(value: bytes | str, *, where: str) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise DataError(f"{where}: expected an encoded image or its base64 text, found {error}. Encode it.") from None


set_model(PolicyModel())
