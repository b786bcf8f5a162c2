"""What is narrow and what is not, and that a narrow training is as exact as any other."""

import hashlib
import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from batches import fake_batch, tiny_policy
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from vla.errors import ConfigError, DataError
from vla.training import checkpoint, distributed, loop, precision
from vla.training.objective import weighted_error
from vla.training.precision import LossScale, autocast, check_supported

CPU = torch.device("cpu")
NARROW = ("bfloat16", "float16")


class StopsAfter(distributed.Context):
    """One process that is asked to stop after some steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(rank=0, world_size=1, device=CPU, control=None)
        self.steps = steps

    def wants_stop(self) -> bool:
        self.steps -= 1
        return self.steps == 0


def weights(job) -> str:
    return hashlib.sha256((job.state_directory.bundle / "model.safetensors").read_bytes()).hexdigest()


def last_metrics(job) -> dict[str, float]:
    rows = [json.loads(line)["metrics"] for line in job.state_directory.journal.read_text().splitlines()]
    return {name: value for row in rows for name, value in row.items()}


@pytest.mark.parametrize("name", NARROW)
def test_matrix_products_are_narrow_and_velocities_errors_and_gradients_are_not(name):
    policy, spec = tiny_policy("tiny_vla")
    batch, seen = fake_batch(spec, 2), {}
    policy.blocks[0].feed[0].register_forward_hook(lambda _module, _args, out: seen.update(product=out))
    policy.expert.to_velocity.register_forward_hook(lambda _module, _args, out: seen.update(velocity=out))
    with autocast(name, CPU):
        loss = policy(batch)
    weighted_error(loss, batch).backward()
    assert seen["product"].dtype == getattr(torch, name)
    assert seen["velocity"].dtype == loss.error_BPHA.dtype == torch.float32
    assert not torch.equal(seen["velocity"], seen["velocity"].to(getattr(torch, name)).float())
    assert {value.grad.dtype for value in policy.parameters()} == {torch.float32}


def test_float32_is_the_plain_computation():
    policy, spec = tiny_policy("tiny_vla")
    batch = fake_batch(spec, 2)
    with autocast("float32", CPU):
        inside = policy(batch).error_BPHA
    assert torch.equal(inside, policy(batch).error_BPHA)


def test_small_steps_move_the_weights_of_a_bfloat16_training():
    """At a learning rate of 2.5e-6 most of the weights of a policy in pure bfloat16 would stand still."""
    moved = {}
    for pure in (False, True):
        policy, spec = tiny_policy("tiny_vla")
        policy = policy.to(torch.bfloat16) if pure else policy
        matrices = [value for value in policy.parameters() if value.ndim == 2]
        before = [value.detach().clone() for value in matrices]
        batch, optimizer = fake_batch(spec, 1), torch.optim.AdamW(policy.parameters(), lr=2.5e-6, weight_decay=0.0)
        for _ in range(8):
            optimizer.zero_grad()
            with autocast("bfloat16", CPU):
                loss = policy(batch)
            weighted_error(loss, batch).backward()
            optimizer.step()
        changed = sum(int((old != new).sum()) for old, new in zip(before, matrices, strict=True))
        moved[pure] = changed / sum(value.numel() for value in matrices)
    assert moved[False] > 0.9
    assert moved[True] < 0.2


@given(st.lists(st.booleans(), max_size=60))
def test_the_loss_scale_follows_the_rule_of_pytorch_s_grad_scaler(overflows):
    ours, parameter = LossScale.of("float16"), nn.Parameter(torch.zeros(1))
    theirs = torch.amp.GradScaler("cpu", init_scale=precision.FIRST_SCALE, growth_interval=3)
    theirs.scale(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "GROWTH_INTERVAL", 3)
        for step, overflow in enumerate(overflows):
            if ours.factor <= 1:
                break
            parameter.grad = torch.full((1,), float("inf") if overflow else 1.0)
            theirs.unscale_(optimizer)
            theirs.step(optimizer)
            theirs.update()
            ours.follow(overflow=overflow, step=step)
            assert ours.factor == theirs.get_scale()
            assert ours.skipped == sum(overflows[: step + 1])


def test_without_float16_the_loss_is_not_scaled_and_nothing_is_reported():
    scale = LossScale.of("bfloat16")
    for step in range(1, 3 * precision.GROWTH_INTERVAL):
        scale.follow(overflow=False, step=step)
    assert scale.factor == 1.0
    assert scale.metrics() == {}


def test_a_step_that_overflows_float16_is_skipped_and_the_training_recovers(make_job, monkeypatch):
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**20)
    worker = loop.Worker.start(make_job(train__precision="float16"), distributed.single("cpu"))
    with worker.feed:
        worker.resume()
        before = {name: value.detach().clone() for name, value in worker.state.parameters().items()}
        first = worker.take_step()
        assert not math.isfinite(first.grad_norm)
        assert (worker.state.step, worker.state.loss_scale.factor) == (1, 2.0**19)
        assert all(torch.equal(before[name], value) for name, value in worker.state.parameters().items())
        assert all(torch.equal(before[name], value) for name, value in worker.state.ema.values.items())
        assert not worker.state.optimizer.state
        for _ in range(11):
            worker.take_step()
        worker.journal.close()
    scale, taken = worker.state.loss_scale, worker.state.optimizer.state[next(worker.state.policy.parameters())]["step"]
    assert scale.skipped > 1
    assert int(taken) == 12 - scale.skipped > 0
    assert any(not torch.equal(before[name], value) for name, value in worker.state.parameters().items())


def test_float16_reports_its_skipped_steps_and_a_gradient_norm_without_them(make_job, monkeypatch):
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**20)
    job = make_job(train__precision="float16", execution__log_every=12)
    loop.train(job, distributed.single("cpu"))
    metrics = last_metrics(job)
    assert metrics["loss_scale"] == 2.0 ** (20 - metrics["skipped_steps"])
    assert 0 < metrics["skipped_steps"] < 12
    assert 0 < metrics["grad_norm"] < 100


def test_gradients_that_overflow_at_any_scale_end_the_training(make_job):
    worker = loop.Worker.start(make_job(train__precision="float16", train__steps=40), distributed.single("cpu"))
    worker.state.policy.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    with worker.feed:
        worker.resume()
        with pytest.raises(DataError, match=r"overflow in 17 steps in a row, up to step 17, .*scale of 1\. .*bfloat16"):
            worker.run()
        worker.journal.close()


@pytest.mark.parametrize(
    ("name", "fused"), [("float32", False), ("float32", True), ("bfloat16", True), ("float16", False)]
)
def test_a_training_that_was_stopped_ends_with_the_bits_of_one_that_was_not(make_job, monkeypatch, name, fused):
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**20)
    settings = {"train__precision": name, "train__optimizer__fused": fused, "execution__checkpoint_every": 100}
    whole, stopped = make_job("whole", **settings), make_job("stopped", **settings)
    assert loop.train(whole, distributed.single("cpu")) == "done"
    assert loop.train(stopped, StopsAfter(6)) == "preempted"
    (step,) = checkpoint.steps(stopped.state_directory.checkpoints)
    notes = checkpoint.load(checkpoint.path_of(stopped.state_directory.checkpoints, step)).notes["loss_scale"]
    assert step == 6
    assert (notes["skipped"] > 0) == (name == "float16")
    assert loop.train(stopped, distributed.single("cpu")) == "done"
    assert weights(stopped) == weights(whole)
    for metric in ("loss", "validation_loss", *(("loss_scale", "skipped_steps") if name == "float16" else ())):
        assert last_metrics(stopped)[metric] == last_metrics(whole)[metric]


def test_precisions_give_other_weights_and_all_of_them_in_float32(make_job):
    found = {}
    for name in ("float32", *NARROW):
        job = make_job(name, train__precision=name)
        loop.train(job, distributed.single("cpu"))
        found[name] = weights(job)
        assert {value.dtype for value in load_file(job.state_directory.bundle / "model.safetensors").values()} == {
            torch.float32
        }
    assert len(set(found.values())) == 3


def test_validation_measures_in_float32_at_any_precision(make_job):
    """So that trainings of different precision compare, and the measure is of what the bundle does."""
    found = []
    for name in ("float32", *NARROW):
        worker = loop.Worker.start(make_job(train__precision=name), distributed.single("cpu"))
        with worker.feed:
            measures = worker.validation.measure(worker.state)
            found.append({key: value for key, value in measures.items() if key != "validation_s"})
    assert found[0] == found[1] == found[2]


def test_a_gpu_that_only_imitates_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_kwargs: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla V100")
    with pytest.raises(ConfigError, match=r"train\.precision: expected what Tesla V100 computes with, found bfloat16"):
        check_supported("bfloat16", torch.device("cuda"))
    check_supported("float16", torch.device("cuda"))
    check_supported("bfloat16", CPU)


def test_a_loss_scale_survives_a_checkpoint():
    scale = LossScale.of("float16")
    scale.follow(overflow=True, step=1)
    scale.follow(overflow=False, step=2)
    assert LossScale(**json.loads(json.dumps(scale.notes()))) == replace(scale)
    assert asdict(scale)["factor"] == 2.0**15
