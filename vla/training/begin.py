"""Where a training begins: at the last checkpoint of its own where there is one, unless the command line says more.

`vla train --resume` insists on a checkpoint, `vla train --overwrite` removes what there is. Neither decides a number,
so they are no parameters and stand in no stage's command.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vla.config import flatten
from vla.errors import CheckpointError, DataError
from vla.tracking import sender, store
from vla.training import checkpoint
from vla.training.state_directory import RESUME_OTHER_CODE, Identity, StateDirectory, may_resume_other_code

log = logging.getLogger(__name__)
NAMED = 8
"""Differences that a message names."""


def find_state(root: Path, identity: Identity, *, resume: bool | Path = False, describe: bool = True) -> StateDirectory:
    """The state directory below `root` to train in, made where there is none yet; only found without `describe`.

    With `resume` there must be something to go on from; a path says in which state directory. Raises CheckpointError.
    """
    state, other = StateDirectory.find(root, identity)
    if isinstance(resume, Path):
        state = _given(resume, root, identity)
    if resume and not (state.done.is_file() or checkpoint.steps(state.checkpoints)):
        raise CheckpointError(
            f"{state.path}: expected a checkpoint to go on from, found none. {_nearest(root, identity, other)} "
            f"To start from nothing, leave --resume out."
        )
    if other is not None:
        step = checkpoint.last_step(other.checkpoints)
        log.info("a training of the same parameters by other code stands at step %d; starting afresh", step)
    return state.describe(identity) if describe else state


def overwrite(root: Path, identity: Identity) -> None:
    """Remove the state of `identity`, and end its run; raises CheckpointError when a process holds it."""
    state = StateDirectory(root / identity.fingerprint)
    if not state.path.exists():
        return
    step = checkpoint.last_step(state.checkpoints)
    if state.is_free():
        _end_run(state)
        if state.remove():
            log.info("removed the training of the same parameters, which stood at step %d; starting afresh", step)
            return
    raise CheckpointError(
        f"{state.path}: expected a training that nobody works on, found one held by "
        f"{state.holder() or 'another process'}. Wait for it or stop it, then overwrite it."
    )


def _end_run(state: StateDirectory) -> None:
    """Nobody would find the run of a removed training to end it; a silent server is said and stops nothing."""
    uri = store.tracking_uri()
    try:
        if (state.path / sender.FILE_NAME).is_file():
            sender.close_left_open(state.path, store.connect(uri), uri)
    except store.SERVER_ERRORS as error:
        log.warning(
            "%s does not answer (%s): the run of the removed training stays as it is there",
            store.public_uri(uri),
            store.first_line(error),
        )


def differences(identity: Identity, state: StateDirectory) -> str:
    """Which parameters and inputs of `state` are others: `train.steps: 1800 here, 2000 there; ...`."""
    here = {**flatten(identity.params), **_shortened(identity.inputs)}
    there = {**flatten(state.described("params")), **_shortened(state.described("inputs"))}
    found = [
        f"{name}: {_shown(here, name)} here, {_shown(there, name)} there"
        for name in [*here, *(name for name in there if name not in here)]
        if _shown(here, name) != _shown(there, name)
    ]
    if state.described("code") != identity.code:
        found.append("code")
    more = [f"{len(found) - NAMED} more"] if len(found) > NAMED else []
    return "; ".join([*found[:NAMED], *more]) or "the version that wrote it"


def _given(folder: Path, root: Path, identity: Identity) -> StateDirectory:
    """The state directory that the user names, if it is one of this training."""
    state = StateDirectory(folder.resolve())
    if not (state.path / "state.json").is_file():
        raise CheckpointError(f"{folder}: expected a training's state directory, found none. They lie in {root}.")
    code = state.described("code")
    if not state.is_of(identity) or (code != identity.code and not may_resume_other_code()):
        same_work = f", or set {RESUME_OTHER_CODE}=1 to go on by this code" if state.is_of(identity) else ""
        raise CheckpointError(
            f"{folder}: expected a state of this training, found one that differs in "
            f"{differences(identity, state)}. To go on with it, make these as they are there{same_work}."
        )
    place = root.resolve() / replace(identity, code=code).fingerprint
    if state.path != place:
        raise CheckpointError(
            f"{folder}: expected this training's state in {place}, found it elsewhere. Move it there."
        )
    return state


def _nearest(root: Path, identity: Identity, other: StateDirectory | None) -> str:
    """What there is instead of a state of this training."""
    if other is not None:
        step = checkpoint.last_step(other.checkpoints)
        return f"{other.path} differs in code alone and stands at step {step}: {RESUME_OTHER_CODE}=1 goes on with it."
    for state in reversed(StateDirectory.all(root)):
        try:
            return (
                f"The newest other one, {state.path} (step {checkpoint.last_step(state.checkpoints)}), differs in "
                f"{differences(identity, state)}."
            )
        except DataError:
            continue  # of a damaged state nobody knows what it was
    return "There is none of other parameters either."


def _shortened(inputs: Mapping[str, str]) -> dict[str, str]:
    return {name: digest[:12] for name, digest in inputs.items()}


def _shown(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "none"
    value = values[name]
    return value if isinstance(value, str) else json.dumps(value)
