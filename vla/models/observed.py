"""What a robot or a simulator senses, under the keys that its users already have, as a policy takes it.

| what  | the policy's name | a column that it was trained from | a key of BEHAVIOR-1K's simulator        |
| view  | head              | observation.images.rgb.head       | robot_r1::robot_r1:zed_link:Camera:0::rgb |
| state | state             | observation.state                 | robot_r1::proprio                       |

The simulator's keys are those that its evaluation makes by `flatten_obs_dict` (StanfordVL/BEHAVIOR-1K,
`OmniGibson/omnigibson/learning/utils/eval_utils.py`), whatever the robot is called; openpi's wrapper of policies for
its 2025 challenge (`openpi/shared/eval_b1k_wrapper.py`) reads the same. What else the simulator senses (depth, the
poses of its cameras, cameras that the policy does not see) may be given and is not used.

The state is the policy's own S values, or all values of the one column that they are parts of; these parts are then
taken as in training. The length says which it is. Where both lengths are equal the key says it: `state` is the policy's
own, and the name of a column (one called `state`, too) and the simulator's key are the column's. A state out of several
columns is given as S values under `state`, or as all of these columns.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import ArrayLike

from vla.columns import Vector
from vla.errors import DataError
from vla.models.bundle import BundleConfig
from vla.omnigibson import CAMERAS
from vla.registry import did_you_mean
from vla.terms import Sensing

STATE = "state"
SIMULATED = {f"observation.images.rgb.{camera}": f"{name}rgb" for camera, name in CAMERAS.items()}
"""Column of 2025-challenge-demos -> how the simulator's key of that camera ends; it begins with the robot's name."""
PROPRIOCEPTION = "::proprio"
"""How the simulator's key of the state ends."""
SEPARATOR, TASK = "::", "task_id"
"""What all keys of the simulator have in them, and the one that has not."""


def sensing(config: BundleConfig, given: Mapping[str, ArrayLike], *, time: float, where: str) -> Sensing:
    """What a policy with `config` is served with, out of arrays by key; `time` is in seconds since the episode start.

    Images are [rows, columns, 3 or 4] of uint8; alpha, which the simulator adds, is dropped. Raises DataError when a
    view or the state is missing, given twice or of a wrong shape, or when a key is not known.
    """
    views = {view: [key for key in given if _is_view(config, view, key)] for view in config.views}
    columns = {column: [key for key in given if _is_column(config, column, key)] for column in config.state_columns}
    own = [STATE] if STATE in given and STATE not in columns else []
    # A state under both names is one too many; one under neither is missed by `_state`, which says what it consists of.
    parts = {column: own + keys for column, keys in columns.items()} if any(columns.values()) else {}
    _check(config, given, {**views, **parts}, where=where)
    images = {view: _image(given[key], where=f"{where}: {key}") for view, (key,) in views.items()}
    state = {column: given[key] for column, (key,) in parts.items()} or {STATE: given.get(STATE, ())}
    return Sensing(images, _state(config, state, where=f"{where}: {', '.join(state)}"), time)


def read_state(config: BundleConfig, values: ArrayLike | None, *, where: str) -> Float32[np.ndarray, "S"]:
    """The state in raw units that is given under `state`; raises DataError for other lengths and infinite numbers."""
    return _state(config, {STATE: () if values is None else values}, where=where)


def _is_view(config: BundleConfig, view: str, key: str) -> bool:
    """Whether `key` is one of the three spellings of a view; another view's own name is that view."""
    column = config.columns.views[view]
    is_simulated = column in SIMULATED and key.endswith(SIMULATED[column])
    return key == view or (key == column and key not in config.views) or is_simulated


def _is_column(config: BundleConfig, column: str, key: str) -> bool:
    """Whether `key` is a spelling of one of the columns of the state."""
    return key == column or (len(config.state_columns) == 1 and key.endswith(PROPRIOCEPTION))


def _check(config: BundleConfig, given: Iterable[str], found: Mapping[str, Sequence[str]], *, where: str) -> None:
    """Raises DataError unless every name of `found` has one key, and every key a name, or is the simulator's."""
    used = {STATE, *(key for keys in found.values() for key in keys)}
    known = [*config.views, *config.columns.views.values(), STATE, *config.state_columns]
    advice = [f"Add {name}." for name, keys in found.items() if not keys]
    advice += [f"Give only one of {', '.join(keys)}." for keys in found.values() if len(keys) > 1]
    for key in given:
        if key not in used and SEPARATOR not in key and key != TASK:
            advice.append(f"Take out {key}.{did_you_mean(key, known)}")
    if advice:
        views = ", ".join(f"{view} (or {config.columns.views[view]})" for view in config.views)
        state = ", ".join(config.state_columns)
        raise DataError(
            f"{where}: expected one image for each of the views {views}, and state (or {state}), "
            f"found {', '.join(given) or 'none'}. {' '.join(advice)}"
        )


def _image(values: ArrayLike, *, where: str) -> UInt8[np.ndarray, "Y X 3"]:
    image = np.asarray(values)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4) or not image.size:
        raise DataError(
            f"{where}: expected an image of uint8 [rows, columns, 3 or 4], found {image.dtype} {list(image.shape)}. "
            f"Convert it."
        )
    return np.ascontiguousarray(image[:, :, :3])


def _state(config: BundleConfig, given: Mapping[str, ArrayLike], *, where: str) -> Float32[np.ndarray, "S"]:
    """The state out of what is given under STATE, or out of all its columns, in the order of `state_columns`."""
    sizes = config.state_columns
    own, whole = [len(config.state_names)], list(sizes.values())
    arrays = [np.asarray(values) for values in given.values()]
    is_whole = given.keys() == sizes.keys() if own == whole or len(whole) > 1 else arrays[0].shape == tuple(whole)
    if [array.shape for array in arrays] != [(size,) for size in (whole if is_whole else own)]:
        parts = " and ".join(f"{size} of {column}" for column, size in sizes.items())
        found = ", ".join(str(array.size if array.ndim == 1 else list(array.shape)) for array in arrays)
        raise DataError(
            f"{where}: expected {own[0]} state values ({', '.join(config.state_names)})"
            f"{'' if own == whole else f' or all {parts}'}, found {found}. Give them all."
        )
    if any(array.dtype.kind not in "fiu" for array in arrays):
        found = ", ".join(str(array.dtype) for array in arrays)
        raise DataError(f"{where}: expected numbers, found {found}. Convert them.")
    with np.errstate(over="ignore"):  # what is too large for float32 is found by the next check
        columns = [array.astype(np.float32) for array in arrays]
    if is_whole:
        rows = {column: values[None] for column, values in zip(sizes, columns, strict=True)}
        state_S = Vector.parse(config.columns.state).assemble(rows)[0]
    else:
        state_S = columns[0]
    if not np.isfinite(state_S).all():
        raise DataError(f"{where}: expected finite state values, found {state_S.tolist()}. Correct them.")
    return state_S
