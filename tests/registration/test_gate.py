from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outcomes import PROTOCOL

from vla.errors import DataError
from vla.registration.gate import RegisterConfig, admit, decide

BY_SUCCESS = RegisterConfig(metric="success", max_error_ratio=1.0)
BY_ERROR = RegisterConfig(metric="error_ratio", max_error_ratio=1.0)


def judged(
    name: str,
    *,
    success: float | None = 0.8,
    error_ratio: float = 0.5,
    train: str = "abc",
    held_out: str = "de",
    action_horizon: int = 8,
    **protocol: Any,
) -> dict[str, Any]:
    """A joined passport; without success the rollout was skipped."""
    return {
        "bundle_digest": name,
        "inputs": {"dataset": "data"},
        "params": {"policy": {"action_horizon": action_horizon}},
        "episode_contents": {"train": list(train), "validation": list(held_out)},
        "evaluation": {"error_ratio": error_ratio},
        "rollout": {
            "status": "skipped" if success is None else "done",
            "success": success,
            "protocol": None if success is None else {**PROTOCOL, **protocol},
        },
    }


def test_the_first_good_policy_becomes_champion():
    decision = decide(judged("new"), None, BY_SUCCESS)
    assert decision.promote
    assert "no champion" in decision.reason


def test_a_policy_worse_than_the_mean_action_is_never_champion():
    decision = decide(judged("new", success=1.0, error_ratio=1.01), None, BY_SUCCESS)
    assert not decision.promote
    assert "1.010" in decision.reason
    assert decide(judged("new", error_ratio=1.0), None, BY_SUCCESS).promote


@given(new=st.floats(0, 1), old=st.floats(0, 1))
def test_by_success_only_a_strictly_higher_one_wins(new, old):
    decision = decide(judged("new", success=new, error_ratio=0.9), judged("old", success=old), BY_SUCCESS)
    assert decision.promote == (new > old)


@given(new=st.floats(0, 1), old=st.floats(0, 1))
def test_by_error_ratio_only_a_strictly_lower_one_wins(new, old):
    decision = decide(judged("new", success=0.0, error_ratio=new), judged("old", error_ratio=old), BY_ERROR)
    assert decision.promote == (new < old)


@pytest.mark.parametrize("without", ["new", "old", "both"])
def test_where_a_rollout_is_missing_the_error_ratio_decides(without):
    new = judged("new", success=None if without in ("new", "both") else 0.0, error_ratio=0.4)
    old = judged("old", success=None if without in ("old", "both") else 1.0, error_ratio=0.5)
    decision = decide(new, old, BY_SUCCESS)
    assert decision.promote
    assert decision.reason.startswith("error_ratio 0.400 beats")


def test_success_under_another_protocol_is_not_compared():
    # 1 of 1 is no better than 78 of 80, and a longer time limit is an easier test.
    candidate = judged("new", success=1.0, episodes=1, settings={"image_size": [64, 64], "max_steps": 300})
    decision = decide(candidate, judged("old", success=78 / 80), BY_SUCCESS)
    assert not decision.promote
    assert decision.reason == (
        "its success cannot be compared with the champion's: episodes 1 instead of 10; "
        "settings {'image_size': [64, 64], 'max_steps': 300} instead of {'image_size': [64, 64], 'max_steps': 150}"
    )


@pytest.mark.parametrize("name", PROTOCOL)
def test_every_part_of_the_protocol_counts(name):
    decision = decide(judged("new", success=1.0, **{name: "other"}), judged("old", success=0.1), BY_SUCCESS)
    assert not decision.promote
    assert f"champion's: {name} other instead of {PROTOCOL[name]}" in decision.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"action_horizon": 1}, "action_horizon 1 instead of 8"), ({"held_out": "dex"}, "other held-out episodes")],
)
def test_an_error_ratio_of_another_horizon_or_of_other_episodes_is_not_compared(change, reason):
    decision = decide(judged("new", error_ratio=0.1, **change), judged("old", error_ratio=0.5), BY_ERROR)
    assert not decision.promote
    assert decision.reason == f"its error_ratio cannot be compared with the champion's: {reason}"
    assert decide(judged("new", success=0.9, **change), judged("old", success=0.8), BY_SUCCESS).promote


def test_the_error_ratio_does_not_ask_how_rollouts_were_made():
    new, old = judged("new", error_ratio=0.4, episodes=1), judged("old", error_ratio=0.5)
    assert decide(new, old, BY_ERROR).promote


def test_the_champion_stays_champion_whatever_its_numbers_are_today():
    today = judged("same", success=0.0, error_ratio=2.0, held_out="a")
    assert decide(today, judged("same", success=1.0), BY_SUCCESS).promote


def test_a_champion_that_was_trained_on_the_held_out_episodes_is_not_compared_with():
    with pytest.raises(DataError, match="1 of 2 among its training episodes"):
        decide(judged("new", held_out="cx"), judged("old", train="abc"), BY_SUCCESS)


def admitted(**changes: str) -> None:
    admit(
        judged("bundle"),
        validation={"status": "passed", "dataset_digest": "data", **pick(changes, "validation")},
        evaluation={"bundle_digest": "bundle", **pick(changes, "evaluation")},
        rollout={"bundle_digest": "bundle", **pick(changes, "rollout")},
    )


def pick(changes: dict[str, str], report: str) -> dict[str, str]:
    return {key.split("__")[1]: value for key, value in changes.items() if key.startswith(report)}


def test_reports_on_this_bundle_and_its_data_are_admitted():
    admitted()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation__status": "failed"}, "validation: expected a dataset that passed, found status 'failed'"),
        ({"validation__dataset_digest": "other"}, "validation: expected a report on the dataset"),
        ({"evaluation__bundle_digest": "other"}, "evaluation: expected a report on this bundle .*, found one on other"),
        ({"rollout__bundle_digest": "other"}, "rollout: expected a report on this bundle"),
    ],
)
def test_a_report_that_failed_or_is_about_something_else_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        admitted(**change)
