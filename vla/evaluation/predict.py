"""One prediction from files: what `vla predict` answers. Nothing is made up: each view and the state must be given."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.errors import DataError
from vla.models import bundle as bundles
from vla.models import inference
from vla.models.compiled import compile_acting
from vla.models.observed import STATE, sensing


def predict_files(
    bundle_path: Path,
    *,
    images: Mapping[str, Path],
    observation: Path | None = None,
    instruction: str,
    state: Sequence[float] | None,
    seed: int,
    compiled: bool = False,
) -> dict[str, Any]:
    """The action chunk for image files, and arrays of an .npz file, by key, in raw units, JSON-ready.

    The keys are those of `vla.models.observed`. The observation is taken as the first step of an episode; `seed` alone
    decides the noise, and `compiled` whether kernels are made for the policy first. Raises DataError when a view or
    the state is missing, unknown or given twice.
    """
    bundle = bundles.load(bundle_path)
    if compiled:
        compile_acting(bundle.policy, setting="--compile")
    given = {} if observation is None else _arrays(observation)
    shown = {key: inference.decode_image(_read(file), where=str(file)) for key, file in images.items()}
    direct = shown if state is None else {**shown, STATE: np.asarray(state)}
    if twice := sorted(given.keys() & direct.keys()):
        raise DataError(f"{observation}: expected each key once, found {', '.join(twice)} beside it. Give it once.")
    sensed = sensing(bundle.config, {**given, **direct}, time=0.0, where="observation")
    chunks = inference.predict_alone(bundle, [sensed], [instruction], seed=seed)
    return {
        "bundle_digest": bundle.digest,
        "instruction": instruction,
        "seed": seed,
        "fps": bundle.config.fps,
        "action_names": list(bundle.config.action_names),
        "actions": [[float(value) for value in action_A] for action_A in chunks[0]],
    }


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: expected an image file, found {error.strerror}. Give an image file.") from None


def _arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; none may hold Python objects."""
    if not zipfile.is_zipfile(file):
        raise DataError(f"{file}: expected an .npz file, found none. Write it with numpy.savez.")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: expected an .npz file of arrays, found {error}. Write it with numpy.savez.") from None
