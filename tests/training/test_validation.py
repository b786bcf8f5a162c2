"""Measures on held-out samples: what they are, and that nothing but the weights and the samples decides them."""

import json
import multiprocessing
import signal

import numpy as np
import pytest
import torch
import workers
from projects import a_job, a_project, params
from safetensors.torch import load_file
from splits import a_dataset, some_samples
from torch import nn

from vla.action_errors import ActionScale
from vla.data.frames import Frames
from vla.data.held_out import ActionOrder, Chunks, HeldOut, ValidationOrder, held_out
from vla.data.samples import read_all_steps
from vla.data.sources import open_dataset
from vla.errors import CheckpointError, ConfigError, DataError
from vla.models.policy import Encoded, Policy
from vla.training import checkpoint, distributed, loop
from vla.training.best import Best
from vla.training.job import BestConfig, Job, TrainConfig
from vla.training.parts import Parts
from vla.training.state import TrainState
from vla.training.validation import Validation

CPU = torch.device("cpu")
MEASURES = ("validation_loss", "validation_error")


class Recalling(Policy[torch.Tensor]):
    """Samples `weight` times what it remembers plus the states that it sees, for every action alike.

    Its velocity is `noisy - answer`, so that one Euler step from any noise ends at the answer.
    """

    def __init__(self, spec) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.dropout = nn.Dropout(0.5)

    def initial_memory(self, batch_size, device):
        return {"remembered": torch.full((batch_size,), 3.0, device=device)}

    def encode(self, obs, memory):
        seen_BT = obs.state_BTS.sum(2) * ~obs.step_is_pad_BT
        answer_B = self.weight * self.dropout(memory["remembered"] + seen_BT.sum(1))
        return Encoded(answer_B, {"remembered": answer_B}, {"distraction": answer_B.mean() * 1000})

    def velocity(self, context, noisy_actions_QHA, time_QH):
        return noisy_actions_QHA - context[:, None, None]


@pytest.fixture
def recalling():
    """The state of a `Recalling` policy whose averaged weight is 2, and measures on all 16 steps of three episodes."""
    samples = some_samples(window=3, stride=2)
    sample_K = held_out(samples, 16)
    frames = Frames.decode(samples, a_dataset(), np.arange(16))
    held = HeldOut.read(samples, sample_K, dataset=a_dataset(), frames=frames)
    chunks = Chunks.read(samples, sample_K, dataset=a_dataset())
    scale = ActionScale(np.array([0.5, 2.0]), np.array([True, True]))
    state = TrainState.fresh(Recalling(samples.windows.spec).train(), TrainConfig.parse(params({})["train"], where=""))
    state.ema.values["weight"].fill_(2.0)
    orders = ValidationOrder(held, seed=0, num_times=2), ActionOrder(held, chunks, scale, seed=0, num_steps=1)
    return state, Validation(*orders, distributed.single("cpu"), micro_batch=5)


def test_actions_are_sampled_with_the_averaged_weights_from_windows_as_at_an_episode_s_start(recalling):
    state, validation = recalling
    absolute, count = 0.0, 0
    for episode in range(3):
        steps = a_dataset().steps(episode)
        states = validation.sampled.held.samples.processor.state.forward(steps.state_TS)
        for start in range(len(steps)):
            answer = 2.0 * (3.0 + states[[at for at in (start - 4, start - 2, start) if at >= 0]].sum())
            # By min_max from -1 to 1, which is the identity.
            errors = np.abs(answer - steps.actions_TA[start : start + 3]) / [0.5, 2.0]
            absolute, count = absolute + errors.sum(), count + errors.size
    assert validation.measure(state)["validation_error"] == pytest.approx(absolute / count, rel=1e-5)


def test_the_flow_loss_leaves_auxiliary_losses_out_and_dropout_off(recalling):
    state, validation = recalling
    batch = validation.scored.batch(0, 32)
    with torch.no_grad():
        state.policy.eval().weight.fill_(2.0)
        answer = state.policy.encode(batch.obs, state.policy.initial_memory(32, CPU)).context
    state.policy.train()
    noisy = batch.time_BPH[..., None] * batch.noise_BPHA + (1 - batch.time_BPH[..., None]) * batch.actions_BPHA
    error = (noisy - answer[:, None, None, None] - (batch.noise_BPHA - batch.actions_BPHA)) ** 2
    expected = float((error * batch.weight_BPHA).sum() / batch.weight_BPHA.sum())
    assert validation.measure(state)["validation_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_validation_leaves_generators_weights_and_the_policy_s_mode_as_they_were(recalling):
    state, validation = recalling
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), state.policy.weight.item()  # noqa: NPY002
    first = validation.measure(state)
    torch.manual_seed(1)
    seeded = torch.get_rng_state()
    again = validation.measure(state)
    assert [first[name] for name in MEASURES] == [again[name] for name in MEASURES]
    assert torch.equal(torch.get_rng_state(), seeded)
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert state.policy.weight.item() == before[2]
    assert state.policy.training
    assert state.policy.dropout.training


def test_a_measure_that_is_not_finite_stops_the_training(recalling):
    state, validation = recalling
    state.ema.values["weight"].fill_(float("nan"))
    with pytest.raises(DataError, match="expected a finite validation_loss, found nan at step 0"):
        validation.measure(state)


def trained(job: Job) -> dict[str, torch.Tensor]:
    """The weights in the bundle of a whole training."""
    assert loop.train(job, distributed.single("cpu")) == "done"
    return load_file(job.state_directory.bundle / "model.safetensors")


def measured(job: Job, metric: str) -> dict[int, float]:
    """Step -> a metric of the journal."""
    rows = [json.loads(line) for line in job.state_directory.journal.read_text().splitlines()]
    return {row["step"]: row["metrics"][metric] for row in rows if metric in row["metrics"]}


def test_any_micro_batch_and_number_of_ranks_gives_the_same_measures(make_job, tmp_path):
    job = make_job(train__validation_samples=7, train__validation_actions=7)
    spawn = multiprocessing.get_context("spawn")
    first, *others = [(rank, job.plain(), str(tmp_path)) for rank in range(3)]
    ranks = [spawn.Process(target=workers.validate_as_rank, args=arguments) for arguments in others]
    for process in ranks:
        process.start()
    workers.validate_as_rank(*first)
    for process in ranks:
        process.join(timeout=300)
    assert [process.exitcode for process in ranks] == [0, 0]
    first, second, third = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3))
    assert len(first) == 9
    for values in [*first.values(), *second.values(), *third.values()]:
        assert values == pytest.approx(first["1 x 8"], rel=1e-6)


def test_how_often_a_training_validates_changes_no_bit_of_it(make_job):
    often, rarely = make_job("often", execution__validate_every=1), make_job("rarely", execution__validate_every=100)
    one, two = trained(often), trained(rarely)
    assert all(torch.equal(one[name], two[name]) for name in one)
    for metric in MEASURES:
        assert list(measured(often, metric)) == list(range(1, 13))
        assert measured(rarely, metric) == {12: measured(often, metric)[12]}
    assert all(seconds > 0 for seconds in measured(often, "validation_s").values())


def test_no_time_of_a_validation_counts_as_training(make_job):
    job = make_job(train__validation_samples=500, train__validation_times=50, execution__validate_every=1)
    worker = loop.Worker.start(job, distributed.single("cpu"))
    with worker.feed:
        worker.resume()
        worker.interval.add(worker.take_step())
        before = worker.interval.metrics(batch_size=8)
        worker.validate(1, counts=False)
        assert worker.interval.metrics(batch_size=8) == before
        worker.journal.close()


def test_without_sampled_actions_the_flow_loss_alone_is_measured(make_job):
    job = make_job(train__validation_actions=0)
    trained(job)
    assert measured(job, "validation_error") == {}
    assert 12 in measured(job, "validation_loss")
    with pytest.raises(ConfigError, match=r"train: expected validation_actions above 0 with best\.metric"):
        make_job(train__validation_actions=0, train__best={"metric": "validation_error", "every": 2})


def test_ties_keep_the_earlier_step_and_what_is_not_finite_is_never_the_best():
    best = Best(BestConfig(metric="validation_loss", every=2))
    offers = [(2, float("nan")), (4, 0.5), (6, 0.5), (8, float("nan")), (10, 0.25), (12, float("-inf"))]
    assert [best.offer(step, {"validation_loss": value}) for step, value in offers] == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    assert (best.step, best.value) == (10, 0.25)
    assert [step for step in range(1, 8) if best.is_due(step, last=step == 7)] == [2, 4, 6, 7]


WORSE_IN_THE_END = {
    "train__steps": 30,
    "train__optimizer__lr": 0.01,
    "train__best": {"metric": "validation_loss", "every": 4},
    "execution__validate_every": 7,
    "execution__checkpoint_every": 7,
    "execution__keep_checkpoints": 1,
}
"""On random actions a policy is soon at its best."""


def test_the_bundle_gets_the_weights_of_the_best_validation_that_counts(make_job):
    job = make_job(**WORSE_IN_THE_END)
    trained(job)
    summary, losses = job.state_directory.summary(), measured(job, "validation_loss")
    assert sorted(losses) == [4, 7, 8, 12, 14, 16, 20, 21, 24, 28, 30]
    counting = {step: losses[step] for step in (4, 8, 12, 16, 20, 24, 28, 30)}
    best = min(counting, key=counting.__getitem__)
    assert best < 28
    assert (summary["steps"], summary["exported_step"]) == (30, best)
    assert (summary["best_metric"], summary["best_value"]) == ("validation_loss", counting[best])
    assert checkpoint.steps(job.state_directory.checkpoints) == [best, 30]
    shorter = make_job("shorter", **WORSE_IN_THE_END)
    worker = loop.Worker.start(shorter, distributed.single("cpu"))
    with worker.feed:
        worker.state.policy.load_state_dict(load_file(job.state_directory.bundle / "model.safetensors"))
        worker.state.ema.values = dict(worker.state.policy.state_dict())
        assert worker.validation.measure(worker.state)["validation_loss"] == counting[best]


def test_without_a_best_the_bundle_gets_the_last_weights(make_job):
    job = make_job(**{**WORSE_IN_THE_END, "train__best": None})
    weights = trained(job)
    last = checkpoint.load(checkpoint.path_of(job.state_directory.checkpoints, 30)).tensors
    assert all(torch.equal(weights[name], last["ema"][name]) for name in weights)
    summary = job.state_directory.summary()
    assert summary["exported_step"] == 30
    assert "best_metric" not in summary


def test_the_best_weights_survive_a_kill_after_their_step(make_job):
    whole, killed = make_job("whole", **WORSE_IN_THE_END), make_job("killed", **WORSE_IN_THE_END)
    expected = trained(whole)
    process = multiprocessing.get_context("spawn").Process(target=workers.train_until_killed, args=(killed.plain(),))
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL
    kept = checkpoint.steps(killed.state_directory.checkpoints)
    best = whole.state_directory.summary()["exported_step"]
    assert best in kept
    assert max(kept) < 24
    found = trained(killed)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert killed.state_directory.summary() == whole.state_directory.summary()
    for metric in MEASURES:
        assert measured(killed, metric) == measured(whole, metric)


def test_best_weights_that_are_damaged_are_an_error_that_says_what_to_do(make_job):
    job = make_job(**WORSE_IN_THE_END)
    expected = trained(job)
    best = job.state_directory.summary()["exported_step"]
    file = checkpoint.path_of(job.state_directory.checkpoints, best) / "ema.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged\. It has the best weights \(train\.best\)\. Remove it"):
        loop.train(job, distributed.single("cpu"))
    assert len(expected) > 0


def test_a_validation_dataset_of_its_own_is_measured_with_the_statistics_of_training(tmp_path):
    mixed_in = {"format": "lerobot_v30", "columns": params({})["data"]["columns"], "weight": 1}
    changes = {"data.weight": 3, "data.mixture": {"elsewhere": mixed_in}, "validate.held_out_source": "elsewhere"}
    project = a_project(tmp_path, {**changes, "train.validation_actions": 20, "train.validation_samples": 20})
    job = a_job(project, state=tmp_path / "state", frames=tmp_path / "frames")
    parts = Parts.build(job)
    held, scale = parts.validation.held, parts.sampling.scale
    assert held.samples.table.sources == parts.sampling.held.samples.table.sources == ("elsewhere",)
    assert parts.training.samples.table.sources == ("toy",)
    assert len(held.sample_K) == len(parts.sampling) == 5 + 6
    dataset = open_dataset(job.cfg.data, job.dataset)
    trained_on = read_all_steps(parts.training.samples, dataset).actions_TA
    measured_on = read_all_steps(held.samples, dataset).actions_TA
    low, high = trained_on.min(0), trained_on.max(0)
    np.testing.assert_allclose(scale.std_A, trained_on.std(0), rtol=1e-5)
    first_HA = held.numbers.actions_BPHA[0, 0]
    np.testing.assert_allclose(first_HA, 2 * (measured_on[:4] - low) / (high - low) - 1, rtol=1e-4, atol=1e-5)
    job.state.mkdir()
    trained(job)
    assert all(measured(job, name) for name in MEASURES)
