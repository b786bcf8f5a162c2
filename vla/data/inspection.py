"""All checks, and what they found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from vla.data.checks import Check, Finding, judge, listing, numbers, overall, views
from vla.data.checks.listing import Listing
from vla.data.recording import Looks, Recording
from vla.data.survey import Survey

DATASET_CHECKS: list[Check[Listing]] = listing.CHECKS
EPISODE_CHECKS: list[Check[Recording]] = [*numbers.CHECKS, *views.CHECKS]
SURVEY_CHECKS: list[Check[Survey]] = overall.CHECKS
ALL_CHECKS: list[Check[Any]] = [*DATASET_CHECKS, *EPISODE_CHECKS, *SURVEY_CHECKS]
"""In the order of their application."""
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that was found."""

    listings: Sequence[Listing]
    episodes: pa.Table
    """The episodes that take part, with their source."""
    findings: list[Finding]
    survey: Survey
    """Empty when a dataset as a whole is faulty: no episode was read then."""
    omitted: Mapping[str, str]
    """Every check -> the setting because of which it was not made; empty for those that were."""
    frames: Looks

    def judge(self, checks: Iterable[Check[S]], subject: S, **details: Any) -> list[Finding]:
        """Add what the checks that are made find in a subject, and return it."""
        made = [check for check in checks if not self.omitted[check.name]]
        found = list(judge(made, subject, **details))
        self.findings.extend(found)
        return found

    @property
    def dataset_faults(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.episode_id is None and finding.level == "error"]

    @property
    def reasons(self) -> dict[int, str]:
        """Faulty episode -> its faults in one line."""
        reasons: dict[int, list[str]] = {}
        for finding in self.findings:
            if finding.episode_id is not None and finding.level == "error":
                reasons.setdefault(finding.episode_id, []).append(f"{finding.check}: {finding.message}")
        return {episode_id: "; ".join(faults) for episode_id, faults in reasons.items()}
