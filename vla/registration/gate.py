"""The gate: whether a policy may be registered, and whether it becomes the champion.

Pure functions of joined passports (`vla/tracking/passport.py`). `admit` refuses what must not be registered at all;
`decide` compares a candidate with today's champion. The champion changes only for a policy that is strictly better in
the same test: neither a tie nor an easier or shorter test is a reason to change what robots run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from vla.config import Config
from vla.errors import DataError

Metric = Literal["success", "error_ratio"]


class RegisterConfig(Config):
    """Section `register`."""

    metric: Metric
    """What the champion is chosen by: rollout success, or, where no rollout ran, the offline error ratio."""
    max_error_ratio: Annotated[float, Field(gt=0)]
    """A policy whose offline error exceeds this times that of always predicting the mean action is never champion."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate says, with the reason for people."""

    promote: bool
    """Whether the candidate is champion from now on."""
    reason: str


def admit(
    passport: Mapping[str, Any],
    *,
    validation: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    rollout: Mapping[str, Any],
) -> None:
    """Raise DataError unless the reports are good and are about this bundle and its data."""
    bundle, dataset = passport["bundle_digest"], passport["inputs"]["dataset"]
    if validation["status"] != "passed":
        raise DataError(
            f"validation: expected a dataset that passed, found status {validation['status']!r}. "
            f"Mend the data or set validate.on_bad_episode, then run 'dvc repro'."
        )
    for report, found, expected, what in (
        ("validation", validation["dataset_digest"], dataset, "the dataset that the policy was trained on"),
        ("evaluation", evaluation["bundle_digest"], bundle, "this bundle"),
        ("rollout", rollout["bundle_digest"], bundle, "this bundle"),
    ):
        if found != expected:
            raise DataError(
                f"{report}: expected a report on {what} ({expected[:12]}), found one on {found[:12]}. Run 'dvc repro'."
            )


def decide(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, cfg: RegisterConfig) -> Decision:
    """Compare joined passports; raises DataError when the comparison would be unfair."""
    if champion is not None and champion["bundle_digest"] == candidate["bundle_digest"]:
        return Decision(promote=True, reason="it is the champion already")
    if champion is not None:
        check_unseen(candidate, champion)
    ratio = candidate["evaluation"]["error_ratio"]
    if ratio > cfg.max_error_ratio:
        return Decision(
            promote=False,
            reason=f"its error ratio {ratio:.3f} exceeds register.max_error_ratio {cfg.max_error_ratio:.3f}",
        )
    if champion is None:
        return Decision(promote=True, reason="there was no champion")
    metric = common_metric(candidate, champion, cfg.metric)
    differences = differing(candidate, champion, metric)
    if differences:
        reason = f"its {metric} cannot be compared with the champion's: {'; '.join(differences)}"
        return Decision(promote=False, reason=reason)
    new, old = value_of(candidate, metric), value_of(champion, metric)
    better = new > old if metric == "success" else new < old
    verb = "beats" if better else "does not beat"
    return Decision(promote=better, reason=f"{metric} {new:.3f} {verb} the champion's {old:.3f}")


def check_unseen(candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> None:
    """Refuse a comparison on episodes that the champion was trained on.

    Episodes are known by what they hold: names and numbers of episodes may change, or stay when the data are new.
    """
    unseen = set(held_out(candidate))
    seen = unseen & set(champion["episode_contents"]["train"])
    if seen:
        raise DataError(
            f"register: expected held-out episodes that the champion has not seen, found {len(seen)} of "
            f"{len(unseen)} among its training episodes: the comparison would favour the champion. Keep "
            f"validate.holdout, register under another tracking.model, or remove the alias 'champion' to start anew."
        )


def common_metric(candidate: Mapping[str, Any], champion: Mapping[str, Any], wanted: Metric) -> Metric:
    """The wanted metric where both policies have it, else the error ratio, which every evaluated policy has."""
    both = all(passport["rollout"]["status"] == "done" for passport in (candidate, champion))
    return wanted if both else "error_ratio"


def differing(candidate: Mapping[str, Any], champion: Mapping[str, Any], metric: Metric) -> list[str]:
    """What differs between the tests that gave the two their values of the metric; empty for a fair comparison."""
    new, old = conditions(candidate, metric), conditions(champion, metric)
    found = [f"{name} {new[name]} instead of {old[name]}" for name in new if new[name] != old[name]]
    if metric == "error_ratio" and set(held_out(candidate)) != set(held_out(champion)):
        found.append("other held-out episodes")
    return found


def conditions(passport: Mapping[str, Any], metric: Metric) -> Mapping[str, Any]:
    """The settings of the test: of the rollouts, or the horizon over which the offline error is averaged."""
    protocol: Mapping[str, Any] = passport["rollout"]["protocol"]
    return protocol if metric == "success" else {"action_horizon": passport["params"]["policy"]["action_horizon"]}


def held_out(passport: Mapping[str, Any]) -> list[str]:
    """Contents of the episodes that the offline error is of."""
    contents: list[str] = passport["episode_contents"]["validation"]
    return contents


def value_of(passport: Mapping[str, Any], metric: Metric) -> float:
    """The metric's value in a joined passport."""
    value: float = passport["rollout" if metric == "success" else "evaluation"][metric]
    return value
