"""What an executor is, and the seam to what it trains with."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Protocol

from bench.records import Event, FailureKind, StudyPlan, TrialJob

WORKER_DIED: FailureKind = (
    "worker died"  # the kind of a trial's failure that is not of its own making
)


class Executor(Protocol):
    """Trains up to `slots` trials at a time."""

    @property
    def slots(self) -> int: ...

    def submit(self, job: TrialJob) -> None:
        """Start a trial; at most `slots` may be unfinished."""
        ...

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        """Wait for the next event of any trial; the last one of a trial frees its slot.

        None when nothing happened in that time, or no trial runs.
        """
        ...

    def answer(self, trial: int, *, go_on: bool) -> None:
        """Answer a trial's `EpochDone`; a trial told to stop sends nothing more."""
        ...

    def cancel(self, trial: int) -> None:
        """Stop an unfinished trial at once, whatever it is doing; it sends nothing more."""
        ...

    def close(self) -> None:
        """Stop everything; unfinished trials are dropped."""
        ...


class Trains(Protocol):
    """Trains one trial after the other, as `bench.training.trainer.Trainer` does."""

    def run(self, job: TrialJob) -> Generator[Event, bool, None]:
        """Yield the trial's events; each is answered by whether the trial goes on."""
        ...


# Called in the worker with the plan and the number of workers that share its device's memory. It
# travels to other processes and machines, so it is a function of a module that they can import.
MakeTrainer = Callable[[StudyPlan, int], Trains]


def make_trainer(plan: StudyPlan, workers: int) -> Trains:
    """Make what trials are really trained with."""
    from bench.training.trainer import Trainer

    return Trainer(plan, workers=workers)
