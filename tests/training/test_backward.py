"""The backward passes of one step: whatever the micro-batches and ranks, the same gradient, and who spoils it."""

import json
import multiprocessing

import pytest
import torch
import workers
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from vla.errors import DataError
from vla.training import distributed, loop


def started(job) -> loop.Worker:
    """A worker before its first step, whose batches are made when they are asked for."""
    return loop.Worker.start(job, distributed.single("cpu"))


def gradient(worker: loop.Worker) -> dict[str, torch.Tensor]:
    """Of step 0."""
    worker.state.policy.zero_grad()
    worker._backward(0, worker.feed.batches(0))
    return {name: value.grad.clone() for name, value in worker.state.parameters().items()}


def assert_equal_gradients(first, second) -> None:
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4])
def test_micro_batches_of_any_size_give_the_gradient_of_the_whole_batch(make_job, micro_batch):
    whole = started(make_job("whole", execution__micro_batch=8))
    cut = started(make_job("cut", execution__micro_batch=micro_batch))
    with whole.feed, cut.feed:
        assert (len(whole.feed.slices), len(cut.feed.slices)) == (1, -(-8 // micro_batch))
        assert_equal_gradients(gradient(whole), gradient(cut))


class HostReads(TorchDispatchMode):
    """Counts numbers that Python reads from a tensor: on a GPU each of them waits for all work before it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_no_micro_batch_waits_for_the_device(make_job):
    worker = started(make_job(execution__micro_batch=2))
    with worker.feed, HostReads() as reads:
        worker._backward(0, worker.feed.batches(0))
        assert reads.count == 0
        float(torch.ones(1))
        assert reads.count == 1


def test_two_ranks_exchange_gradients_once_per_step_and_name_a_bad_sample_alike(make_job, tmp_path):
    alone = started(make_job("alone", execution__prefetch=0))
    with alone.feed:
        expected, guilty = gradient(alone), workers.spoil(alone, step=1, place=6)
    job = make_job("two", execution__workers=2, execution__micro_batch=1, execution__prefetch=0).plain()
    other = multiprocessing.get_context("spawn").Process(target=workers.step_as_rank, args=(1, job, str(tmp_path)))
    other.start()
    workers.step_as_rank(0, job, str(tmp_path))
    other.join(timeout=300)
    assert other.exitcode == 0
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["exchanged"] == list(range(len(first["exchanged"]))) != []
    assert f"at step 2. Not finite are the errors of {guilty}. " in first["message"]
    assert second == first
    for rank in range(2):
        assert_equal_gradients(expected, load_file(tmp_path / f"{rank}.safetensors"))


def test_an_infinite_gradient_of_finite_errors_names_the_largest_ones(make_job):
    worker = started(make_job())
    worker.state.policy.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    with worker.feed:
        errors = worker._backward(0, worker.feed.batches(0)).error_B
        worker.state.policy.zero_grad()
        largest = worker.parts.training.names(0, int(errors.argmax()), int(errors.argmax()) + 1)[0]
        with pytest.raises(DataError) as caught:
            worker.take_step()
    assert f"Every sample's own error is finite; the largest are those of {largest}, " in str(caught.value)
    assert "more" not in str(caught.value)


def test_a_step_that_is_refused_changes_no_weight(make_job):
    worker = started(make_job(execution__prefetch=0))
    before = {name: value.detach().clone() for name, value in worker.state.parameters().items()}
    workers.spoil(worker, step=0, place=3)
    with worker.feed, pytest.raises(DataError):
        worker.take_step()
    assert all(torch.equal(before[name], value) for name, value in worker.state.parameters().items())
    assert worker.state.step == 0
