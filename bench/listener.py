"""Who follows a search, and what it is told."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from bench.records import EpochScores, Recipe, StudyPlan, TrialState
from bench.steps import Steps


class Listener(Protocol):
    """Follows a search; the command line draws what it hears."""

    def stage(self, text: str) -> None: ...

    def search_started(
        self, plan: StudyPlan, *, finished: int, total: int, best: tuple[float, int] | None
    ) -> None: ...

    def trial_started(self, number: int, recipe: Recipe) -> None: ...

    def epoch_scored(self, number: int, scores: EpochScores, mean: float) -> None: ...

    def trial_ended(
        self, number: int, state: TrialState, value: float | None, error: str | None = None
    ) -> None: ...

    def search_ended(self) -> None: ...


class Display(Listener, Protocol):
    """Follows a whole run, in which other things than trials are counted as well."""

    def steps(self) -> AbstractContextManager[Steps]:
        """Show stages and how much of each is done, for as long as the block lasts."""
        ...
