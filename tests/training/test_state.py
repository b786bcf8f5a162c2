"""What training changes, taken over from a checkpoint."""

from pathlib import Path

import torch
from batches import fake_batch, tiny_policy
from projects import params

from vla.training import checkpoint
from vla.training.checkpoint import Retention
from vla.training.job import TrainConfig
from vla.training.objective import weighted_error
from vla.training.state import TrainState, weights_for_bundle


def a_trained_state(*, steps: int, ema: float = 0.9) -> TrainState:
    policy, spec = tiny_policy("tiny_vla")
    cfg = TrainConfig.parse({**params({})["train"], "ema": ema}, where="tests")
    state = TrainState.fresh(policy.train(), cfg)
    batch = fake_batch(spec, 3)
    for step in range(1, steps + 1):
        weighted_error(policy(batch), batch).backward()
        state.optimizer.step()
        state.ema.update(state.parameters(), step=step)
        state.step = step
    return state


def test_a_state_that_was_loaded_holds_no_file_of_its_checkpoint(tmp_path):
    trained, state = a_trained_state(steps=1), a_trained_state(steps=0)
    path = checkpoint.save(
        tmp_path, step=1, tensors=trained.tensors(), notes=trained.notes(), retention=Retention(newest=1)
    )
    state.load(checkpoint.load(path))
    assert str(path) not in Path("/proc/self/maps").read_text()
    expected = trained.tensors()
    for stem, tensors in state.tensors().items():
        assert tensors.keys() == expected[stem].keys()
        assert all(torch.equal(value, expected[stem][name]) for name, value in tensors.items())


def test_without_an_average_the_bundle_gets_the_last_weights_and_a_checkpoint_brings_them_back(tmp_path):
    trained, state = a_trained_state(steps=2, ema=0.0), a_trained_state(steps=0, ema=0.0)
    path = checkpoint.save(
        tmp_path, step=2, tensors=trained.tensors(), notes=trained.notes(), retention=Retention(newest=1)
    )
    state.load(checkpoint.load(path))
    last = trained.policy.state_dict()
    for weights in (weights_for_bundle(trained), weights_for_bundle(state)):
        assert all(torch.equal(weights[name], value) for name, value in last.items())
