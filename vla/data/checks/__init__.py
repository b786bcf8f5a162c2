"""The checks of the validate stage: one function each, which yields a message for every fault that it finds.

They lie in modules by what they look at: a dataset before any episode is read (`listing`), the numbers (`numbers`) and
the pictures (`views`) of one episode, all sound episodes together (`overall`). Adding a check is adding a function; its
name and its promise appear in the report by themselves.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from vla.data.recording import Looks

Level = Literal["error", "warning"]
NAMED = 8
"""Names that a message lists before it counts the rest."""
LOOKS: tuple[Looks, ...] = ("none", "ends", "all")


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault."""

    check: str
    episode_id: int | None
    """As in the episode table; None when a dataset as a whole is meant."""
    where: str
    """The episode, and the dataset in a mixture, for people."""
    message: str
    level: Level

    def __str__(self) -> str:
        return f"{self.where}: {self.check}: {self.message}" if self.where else f"{self.check}: {self.message}"


S = TypeVar("S")
Faults = Callable[[S], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """A named check of a subject."""

    name: str
    promise: str
    """What holds when nothing is found."""
    level: Level
    is_essential: bool
    """Nothing can be done with a subject that fails: it ends the subject's checks, and is neither a warning nor left
    out."""
    frames: Looks
    """Which frames of every view it needs to have been decoded."""
    faults: Faults[S]

    def omission(self, *, frames: Looks, skip: Collection[str]) -> str:
        """The setting because of which the check is not made; empty when it is."""
        if self.name in skip:
            return "validate.skip names it"
        if LOOKS.index(self.frames) > LOOKS.index(frames):
            return f"validate.frames is {frames}"
        return ""


def check(
    checks: list[Check[S]], promise: str, *, level: Level = "error", is_essential: bool = False, frames: Looks = "none"
) -> Callable[[Faults[S]], Faults[S]]:
    """Add the decorated function to a list of checks under its own name."""

    def add(faults: Faults[S]) -> Faults[S]:
        checks.append(Check(faults.__name__, promise, level, is_essential, frames, faults))
        return faults

    return add


def judge(
    checks: Iterable[Check[S]],
    subject: S,
    *,
    where: str = "",
    episode_id: int | None = None,
    warn_only: Collection[str] = (),
) -> Iterator[Finding]:
    """What the checks find in a subject; those named in `warn_only` find warnings."""
    for item in checks:
        level: Level = "warning" if item.name in warn_only else item.level
        found = [Finding(item.name, episode_id, where, fault, level) for fault in item.faults(subject)]
        yield from found
        if found and item.is_essential:
            return


def some(items: Collection[Any]) -> str:
    """The first few items and how many more there are."""
    named = [str(item) for _, item in zip(range(NAMED), items, strict=False)]
    rest = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(named) + rest
