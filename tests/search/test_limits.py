"""How a study ends before its last trial, and how it bears failures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import pytest

from bench.database import Database
from bench.errors import BenchError, WorkspaceError
from bench.progress import SilentProgress
from bench.records import (
    EpochDone,
    Event,
    FailureKind,
    StudyPlan,
    TrialDone,
    TrialFailed,
    TrialJob,
)
from bench.results import load_study_report, load_trials
from bench.search.budget import Budget
from bench.search.coordinator import Coordinator
from bench.search.executors import InlineExecutor
from bench.search.study import open_study
from bench.workspace import describe_environment
from tests.records import epoch_scores

Script = Iterator[TrialFailed | float | None]


class Scripted:
    """A trainer whose trials end as a list says: with a score, or with a failure."""

    def __init__(self, plan: StudyPlan, ends: list[float | FailureKind]) -> None:
        self._plan = plan
        self._ends = iter(ends)
        self.trained: list[int] = []

    def run(self, job: TrialJob) -> Iterator[Event]:
        self.trained.append(job.number)
        end = next(self._ends)
        if isinstance(end, str):
            yield TrialFailed(trial=job.number, kind=end, message="as scripted")
            return
        for fold in range(len(self._plan.split.folds)):
            for epoch in range(self._plan.settings.epochs):
                yield EpochDone(trial=job.number, scores=epoch_scores(fold, epoch, end))
        yield TrialDone(trial=job.number)


@pytest.fixture
def plan(study_plan: StudyPlan) -> StudyPlan:
    return replace(study_plan, settings=replace(study_plan.settings, pruner="none"))


def run(
    plan: StudyPlan,
    database: Database,
    ends: list[float | FailureKind],
    budget: Budget,
    *,
    seconds_a_look: float = 0.0,
) -> Scripted:
    """What the owner of a study does; its clock goes on at each look, so that nothing waits."""
    trainer = Scripted(plan, ends)
    ticks = count()
    database.save_plan(plan, describe_environment(None))
    coordinator = Coordinator(
        plan,
        open_study(plan, database),
        database,
        SilentProgress(),
        clock=lambda: seconds_a_look * next(ticks),
    )
    coordinator.run(InlineExecutor(plan, lambda *_: trainer), budget)
    return trainer


def states(plan: StudyPlan, database: Database) -> list[str]:
    return [trial.state for trial in load_trials(database, plan)]


# --- limits ---------------------------------------------------------------------------------


def test_patience_ends_a_study_that_no_longer_gets_better(
    plan: StudyPlan, database: Database
) -> None:
    run(plan, database, [0.5, 0.6, 0.6, 0.4, 0.9], Budget(trials=5, patience=2))

    report = load_study_report(database, plan.study)
    assert [trial.value for trial in report.trials] == pytest.approx([0.5, 0.6, 0.6, 0.4])
    assert report.ended is not None and "--patience 2" in report.ended
    assert "after 4 of 5 trials" in report.ended


def test_patience_counts_over_runs(plan: StudyPlan, database: Database) -> None:
    run(plan, database, [0.5, 0.4], Budget(trials=2))
    again = run(plan, database, [0.4, 0.9], Budget(trials=4, patience=2))
    assert len(again.trained) == 1


def test_a_time_that_is_over_leaves_the_running_trial_to_the_next_run(
    plan: StudyPlan, database: Database
) -> None:
    run(plan, database, [0.5] * 9, Budget(trials=9, timeout_s=8.0), seconds_a_look=1.0)
    ended = load_study_report(database, plan.study).ended
    assert ended is not None and "--timeout 8s was over" in ended
    assert states(plan, database)[-1] == "INTERRUPTED"
    assert "FAIL" not in states(plan, database)

    run(plan, database, [0.5] * 9, Budget(trials=9))
    assert states(plan, database) == ["COMPLETE"] * 9
    assert load_study_report(database, plan.study).ended is None


def test_a_trial_that_takes_too_long_has_failed_and_the_next_one_begins(
    plan: StudyPlan, database: Database
) -> None:
    budget = Budget(trials=1, trial_timeout_s=3.0, max_failures=2)
    with pytest.raises(BenchError, match="time limit: it took longer than --trial-timeout 3s"):
        run(plan, database, [0.5] * 9, budget, seconds_a_look=1.0)
    assert states(plan, database) == ["FAIL", "FAIL"]


def test_a_grid_ends_with_its_last_recipe(plan: StudyPlan, database: Database) -> None:
    space = {
        **plan.space,
        "parameters": {
            "backbone": plan.space["parameters"]["backbone"],
            "freeze_depth": {"low": 4, "high": 5},
        },
    }
    gridded = replace(
        plan, space=space, settings=replace(plan.settings, sampler="grid"), study="grid"
    )
    run(gridded, database, [0.5] * 20, Budget(trials=20))

    trials = load_trials(database, gridded)
    assert {trial.recipe.freeze_depth for trial in trials} == {4, 5}
    ended = load_study_report(database, gridded.study).ended
    assert ended is not None and "recipes have all been tried" in ended


# --- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["worker died", "out of memory"])
def test_what_another_try_can_mend_is_tried_again_under_the_same_number(
    plan: StudyPlan, database: Database, kind: FailureKind
) -> None:
    trainer = run(plan, database, [kind, 0.7], Budget(trials=1))

    assert trainer.trained == [0, 0]
    (trial,) = load_trials(database, plan)
    assert (trial.state, trial.value, trial.error) == ("COMPLETE", pytest.approx(0.7), None)
    assert trial.remark is not None and f"{kind}: as scripted" in trial.remark


@pytest.mark.parametrize("kind", ["non-finite loss", "time limit", "bad trial code", "bad input"])
def test_what_would_fail_again_is_not_tried_again(
    plan: StudyPlan, database: Database, kind: FailureKind
) -> None:
    trainer = run(plan, database, [kind, 0.7], Budget(trials=1, retries=5))

    assert trainer.trained == [0, 1]
    failed, complete = load_trials(database, plan)
    assert (failed.state, failed.value) == ("FAIL", None), "never a score of 0, never pruned"
    assert failed.error == f"{kind}: as scripted"
    assert complete.state == "COMPLETE"


def test_tries_are_counted_over_runs(plan: StudyPlan, database: Database) -> None:
    trainer = run(plan, database, ["worker died", "worker died", 0.7], Budget(trials=1))
    assert trainer.trained == [0, 0, 1]


def test_too_many_failures_end_the_study_with_what_they_said(
    plan: StudyPlan, database: Database
) -> None:
    with pytest.raises(BenchError, match=r"3 trials failed \(--max-failures 3\)") as caught:
        run(plan, database, ["non-finite loss"] * 9, Budget(trials=5, max_failures=3))
    assert "non-finite loss: as scripted" in str(caught.value)
    assert states(plan, database) == ["FAIL"] * 3


def test_a_full_disk_stops_the_study_and_fails_no_trial(
    plan: StudyPlan, database: Database
) -> None:
    with pytest.raises(WorkspaceError, match="Everything up to here is kept"):
        run(plan, database, [0.5, "workspace"], Budget(trials=3))
    assert states(plan, database) == ["COMPLETE", "INTERRUPTED"]

    run(plan, database, [0.6, 0.7], Budget(trials=3))
    assert states(plan, database) == ["COMPLETE"] * 3
