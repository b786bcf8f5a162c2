"""Each self-check passes where all is well and fires where its mistake was made."""

import multiprocessing
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from batches import a_spec, fake_batch, tiny_policy
from projects import params
from torch import nn

from vla.models.policy import FlowLoss
from vla.training import distributed
from vla.training.job import TrainConfig
from vla.training.self_checks import SelfChecks, check_frozen_at_end, read_findings
from vla.training.state import TrainState

TWO_DIMS = a_spec(action_dim=2, state_dim=2)
NAMES = {"actions": ("reach", "grip"), "state": ("reach", "grip")}


@pytest.fixture
def checks():
    return SelfChecks(distributed.single("cpu"))


@pytest.fixture
def policy():
    return tiny_policy("tiny_vla")[0].train()


@pytest.fixture
def batch():
    return fake_batch(tiny_policy("tiny_vla")[1], 3)


def state_of(policy: nn.Module) -> TrainState:
    return TrainState.fresh(policy, TrainConfig.parse(params({})["train"], where="tests"))


def found(checks: SelfChecks) -> list[str]:
    return [str(finding) for finding in checks.findings]


def a_rank(rank: int, folder: str, *, noise: int, samples: tuple[int, ...], answers) -> None:
    """One of two ranks that make the checks on batches of their own; says how they ended."""
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=limit)
    checks = SelfChecks(distributed.joined(torch.device("cpu")))
    batch = replace(fake_batch(TWO_DIMS, 2, seed=noise), sample_uid_B=torch.tensor(samples))
    try:
        checks.ranks_draw_differently([batch])
        checks.shards_make_the_batch([batch], [0, 1, 2, 3])
    except AssertionError as error:
        answers.put(str(error))
    else:
        answers.put("")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("noise", "samples", "message"),
    [
        ((0, 1), ((0, 1), (2, 3)), ""),
        ((0, 0), ((0, 1), (2, 3)), "noise that differ between ranks"),
        ((0, 1), ((0, 1), (1, 2)), "the 4 samples of the step once each"),
    ],
    ids=["right", "equal noise", "overlapping shards"],
)
def test_ranks_stop_together_when_they_share_noise_or_samples(tmp_path, noise, samples, message):
    spawn = multiprocessing.get_context("fork")
    answers = spawn.Queue()
    ranks = [
        spawn.Process(
            target=a_rank,
            args=(rank, str(tmp_path)),
            kwargs={"noise": noise[rank], "samples": samples[rank], "answers": answers},
        )
        for rank in (0, 1)
    ]
    for rank in ranks:
        rank.start()
    said = [answers.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join()
    assert all(message in text if message else not text for text in said), said


def test_values_far_from_normalised_ones_are_a_warning_that_names_the_dimension(checks):
    batch = fake_batch(TWO_DIMS, 4)
    checks.inputs_are_normalised([batch], NAMES)
    assert not any(finding.warning for finding in checks.findings)
    batch.actions_BPHA[0, 0, 0, 1] = -40.0
    checks.inputs_are_normalised([batch], NAMES)
    (warning,) = [finding for finding in checks.findings if finding.warning]
    assert warning.check == "normalised actions"
    assert "1 values of dimension grip lie beyond 10" in warning.found


def test_targets_without_weight_are_not_looked_at(checks):
    batch = fake_batch(TWO_DIMS, 4)
    batch.actions_BPHA[0, 0, 2] = 99.0
    batch.weight_BPHA[0, 0, 2] = 0.0
    checks.inputs_are_normalised([batch], NAMES)
    assert not any(finding.warning for finding in checks.findings)


def test_padded_dimensions_do_not_dilute_what_is_found(checks):
    batch = fake_batch(TWO_DIMS, 4)
    batch.actions_BPHA[..., 0], batch.actions_BPHA[..., 1], batch.weight_BPHA[..., 1] = 3.0, 0.0, 0.0
    checks.inputs_are_normalised([batch], {**NAMES, "actions": ("reach",)})
    checks.first_loss_is_plausible(1.0, [batch])
    assert checks.findings[0].found == "root mean square 3.00 over 12 rows"
    assert checks.findings[-1].found == "1, where predicting nothing has 10"


def test_a_sound_policy_passes_and_keeps_no_gradient(checks, policy, batch):
    checks.policy_learns_what_counts(policy, batch, policy)
    assert [finding.check for finding in checks.findings] == ["weights", "padding"]
    assert all(value.grad is None for value in policy.parameters())


def test_a_weight_that_the_loss_does_not_depend_on_is_named(checks, policy, batch):
    policy.spare = nn.Linear(2, 2)
    with pytest.raises(AssertionError, match=r"TinyVLA: .* found unused: spare\.weight, spare\.bias\."):
        checks.policy_learns_what_counts(policy, batch, policy)


def mixing_dimensions(loss: FlowLoss) -> FlowLoss:
    return replace(loss, error_BPHA=loss.error_BPHA.mean(-1, keepdim=True).expand_as(loss.error_BPHA))


def test_a_loss_that_mixes_dimensions_reaches_padded_rows(checks, policy, batch):
    with pytest.raises(AssertionError, match="padding would be learned"):
        checks.policy_learns_what_counts(policy, batch, lambda given: mixing_dimensions(policy(given)))


def test_an_action_output_that_gives_no_velocity_is_found(checks, policy, batch, monkeypatch):
    monkeypatch.setattr(policy, "action_output", lambda: policy.embed_state[0])
    with pytest.raises(AssertionError, match="expected the velocity to be what action_output answers"):
        checks.policy_learns_what_counts(policy, batch, policy)


def test_of_a_frozen_action_output_only_what_it_answers_is_checked(checks, policy, batch):
    policy.action_output().requires_grad_(requires_grad=False)
    checks.policy_learns_what_counts(policy, batch, policy)
    assert found(checks)[-1] == "self-check: padding: an action without weight has no gradient"
    with pytest.raises(AssertionError, match="padding would be learned"):
        checks.policy_learns_what_counts(policy, batch, lambda given: mixing_dimensions(policy(given)))


def test_a_policy_without_action_output_is_said_to_be_unchecked(checks, policy, batch, monkeypatch):
    monkeypatch.setattr(policy, "action_output", lambda: None)
    checks.policy_learns_what_counts(policy, batch, policy)
    assert found(checks)[-1] == "self-check: padding: not checked, as TinyVLA names no action_output"


def test_frozen_weights_that_move_are_found_before_and_after_training(checks, policy):
    policy.stem.requires_grad_(requires_grad=False)
    state = state_of(policy)
    checks.frozen_weights_rest(state)
    check_frozen_at_end(state)
    with torch.no_grad():
        policy.stem[0].weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(AssertionError, match="expected frozen weights to rest"):
        checks.frozen_weights_rest(state)
    with pytest.raises(AssertionError, match="training has changed them"):
        check_frozen_at_end(state)


def test_a_frozen_weight_with_a_gradient_is_named(checks, policy):
    policy.stem.requires_grad_(requires_grad=False)
    state = state_of(policy)
    policy.stem[0].bias.grad = torch.zeros_like(policy.stem[0].bias)
    with pytest.raises(AssertionError, match=r"found stem\.0\.bias trained"):
        checks.frozen_weights_rest(state)


def test_a_first_loss_far_above_that_of_predicting_nothing_is_a_warning(checks):
    batch = fake_batch(TWO_DIMS, 64)
    nothing = 1 + float(batch.actions_BPHA.square().mean())
    for loss in (1.0, 101 * nothing):
        checks.first_loss_is_plausible(loss, [batch])
    assert [finding.warning for finding in checks.findings] == [False, True]


def test_findings_are_read_as_written(checks, tmp_path):
    checks.first_loss_is_plausible(1.0, [fake_batch(TWO_DIMS, 2)])
    checks.write(tmp_path / "self_checks.json", step=0)
    assert read_findings(tmp_path / "self_checks.json") == checks.findings
