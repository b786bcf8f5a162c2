"""One prediction from files: what `vla predict` answers. Nothing is made up: each view and the state must be given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla.errors import DataError
from vla.models import bundle as bundles
from vla.models import inference
from vla.terms import Sensing


def predict_files(
    bundle_path: Path, *, images: Mapping[str, Path], instruction: str, state: Sequence[float] | None, seed: int
) -> dict[str, Any]:
    """The action chunk for one image file per view, in raw units, JSON-ready.

    The observation is taken as the first step of an episode; `seed` alone decides the noise. Raises DataError when a
    view or the state is missing or unknown.
    """
    bundle = bundles.load(bundle_path)
    views = bundle.spec.views
    if set(images) != set(views):
        raise DataError(
            f"images: expected one file for each of the views {', '.join(views)}, "
            f"found {', '.join(sorted(images)) or 'none'}. Give exactly these."
        )
    state_S = inference.read_state(bundle, state, where="state")
    pixels = {view: inference.decode_image(_read(file), where=str(file)) for view, file in images.items()}
    chunks = inference.predict_alone(bundle, [Sensing(pixels, state_S, 0.0)], [instruction], seed=seed)
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
