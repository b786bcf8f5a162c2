"""LeRobot's relative actions: which dimensions they are is said by parts of names that stay absolute."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from vla.delta import Delta
from vla.errors import CheckpointError


def mask(config: Mapping[str, Any], names: Sequence[str]) -> list[bool]:
    """Which action dimensions are relative to the state dimension of their number.

    All but those whose name contains an excluded one, whatever the case; all of them where the policy knows no names.
    """
    if not config.get("action_feature_names"):
        return [True] * len(names)
    excluded = [str(part).lower() for part in config.get("relative_exclude_joints", ["gripper"]) if part]
    return [not any(part in name.lower() for part in excluded) for name in names]


def ranges(is_relative: Sequence[bool]) -> list[dict[str, Any]]:
    """Section `transforms.delta_actions` of a mask."""
    found = []
    for wanted, group in groupby(range(len(is_relative)), key=lambda dim: is_relative[dim]):
        dims = list(group)
        if wanted:
            found.append({"actions": [dims[0], dims[-1] + 1], "state": [dims[0], dims[-1] + 1]})
    return found


def config(delta: Delta, names: Sequence[str]) -> dict[str, Any]:
    """The keys of LeRobot's `config.json` for these differences; none without any, as older versions know none.

    Raises CheckpointError for differences that LeRobot cannot say.
    """
    if not len(delta):
        return {}
    if delta.actions_K.tolist() != delta.state_K.tolist():
        raise CheckpointError(
            f"transforms.delta_actions: expected actions relative to the state dimension of their number, which is all "
            f"that LeRobot has, found actions {delta.actions_K.tolist()} of state {delta.state_K.tolist()}."
        )
    taken = set(delta.actions_K.tolist())
    keys = {
        "use_relative_actions": True,
        "relative_exclude_joints": [name for dim, name in enumerate(names) if dim not in taken],
        "action_feature_names": list(names),
    }
    if mask(keys, names) != [dim in taken for dim in range(len(names))]:
        raise CheckpointError(
            f"actions: expected names by which LeRobot tells relative from absolute dimensions, found "
            f"{', '.join(names)}: the name of an absolute one is a part of another's."
        )
    return keys
