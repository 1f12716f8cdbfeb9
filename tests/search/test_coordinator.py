from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy import event

from bench.database import Database
from bench.errors import BenchError
from bench.progress import SilentProgress
from bench.records import (
    EpochDone,
    EpochScores,
    Event,
    FailureKind,
    Recipe,
    StudyPlan,
    TrialDone,
    TrialFailed,
    TrialJob,
    TrialRecord,
)
from bench.results import load_trials
from bench.search.budget import Budget
from bench.search.coordinator import Coordinator
from bench.search.study import open_study
from bench.space import SearchSpace
from tests.records import epoch_scores

TRIALS = 12  # enough for the median pruner (from 5) and for TPE (from 10) to have their say


class Killed(BaseException):
    """Not an `Exception`, as a kill is none that anybody could catch."""


def scored(job: TrialJob, fold: int, epoch: int) -> EpochScores:
    """A score that depends on the recipe alone: best at a rate of 1e-3, rising over epochs."""
    recipe = job.recipe
    distance = abs(math.log10(recipe.learning_rate) + 3) + 0.1 * recipe.freeze_depth
    return epoch_scores(fold, epoch, max(0.9 - 0.2 * distance + 0.02 * epoch + 0.03 * fold, 0.0))


class FakeExecutor:
    """Scripted trials, because only the order of events matters here and must be the same always.

    Like a real one it tells a trial that is submitted again from its first epoch on.
    """

    def __init__(
        self,
        plan: StudyPlan,
        *,
        slots: int = 1,
        die_at: int | None = None,
        fails: Callable[[int], bool] = lambda _number: False,
        kind: FailureKind = "bad trial code",
    ) -> None:
        self.slots = slots
        self.jobs: list[TrialJob] = []
        self.told: list[Event] = []
        self.most_at_once = 0
        self._plan = plan
        self._die_at = die_at
        self._fails = fails
        self._kind = kind
        self._running: deque[tuple[int, Iterator[Event]]] = deque()
        self._waiting_for: int | None = None

    def submit(self, job: TrialJob) -> None:
        self.jobs.append(job)
        self._running.append((job.number, self._script(job)))
        self.most_at_once = max(self.most_at_once, len(self._running))
        assert len(self._running) <= self.slots

    def next_event(self, timeout_s: float | None = None) -> Event:
        assert self._waiting_for is None, "an epoch was not answered"
        if self._die_at == len(self.told):
            raise Killed
        number, script = self._running[0]
        self._running.rotate(-1)  # trials take turns
        told = next(script)
        self.told.append(told)
        if isinstance(told, EpochDone):
            self._waiting_for = number
        else:
            self._drop(number)
        return told

    def answer(self, trial: int, *, go_on: bool) -> None:
        assert self._waiting_for == trial
        self._waiting_for = None
        if not go_on:
            self._drop(trial)

    def cancel(self, trial: int) -> None:
        self._drop(trial)

    def close(self) -> None:
        self._running.clear()

    def _script(self, job: TrialJob) -> Iterator[Event]:
        if self._fails(job.number):
            message = f"disaster {job.number % 2}"
            yield TrialFailed(trial=job.number, kind=self._kind, message=message)
            return
        for fold in range(len(self._plan.split.folds)):
            for epoch in range(self._plan.settings.epochs):
                yield EpochDone(trial=job.number, scores=scored(job, fold, epoch))
        yield TrialDone(trial=job.number)

    def _drop(self, number: int) -> None:
        self._running = deque(entry for entry in self._running if entry[0] != number)


class Recorder(SilentProgress):
    """Remembers what a person would be told."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def search_started(
        self, plan: StudyPlan, *, finished: int, total: int, best: tuple[float, int] | None
    ) -> None:
        self.said.append(("search", finished, total, best and best[1]))

    def trial_started(self, number: int, recipe: Recipe) -> None:
        self.said.append(("start", number))

    def trial_ended(
        self, number: int, state: str, value: float | None, error: str | None = None
    ) -> None:
        self.said.append(("end", number, state, value, error))

    def search_ended(self) -> None:
        pass


def run(
    plan: StudyPlan,
    database: Database,
    executor: FakeExecutor | None = None,
    *,
    trials: int = TRIALS,
    budget: Budget | None = None,
    listener: Recorder | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FakeExecutor:
    """What a process does that owns the study."""
    executor = executor or FakeExecutor(plan)
    study = open_study(plan, database)
    coordinator = Coordinator(plan, study, database, listener or Recorder(), clock)
    coordinator.run(executor, budget or Budget(trials=trials))
    return executor


def frozen(plan: StudyPlan, database: Database) -> list[optuna.trial.FrozenTrial]:
    return open_study(plan, database).get_trials()


def facts(plan: StudyPlan, database: Database) -> list[tuple[Any, ...]]:
    """All that a study found out, without the times at which it did."""
    trials = [trial for trial in frozen(plan, database) if trial.state.name != "WAITING"]
    epochs = database.load_epochs(plan.study)
    return [
        (t.number, t.state.name, t.params, t.values, t.intermediate_values, epochs.get(t.number))
        for t in trials
    ]


@pytest.fixture
def plan(study_plan: StudyPlan, database: Database, environment: Any) -> StudyPlan:
    database.save_plan(study_plan, environment)
    return study_plan


@pytest.fixture
def records(plan: StudyPlan, database: Database) -> Callable[[], tuple[TrialRecord, ...]]:
    return lambda: load_trials(database, plan)


# --- an undisturbed run ---------------------------------------------------------------------


def test_the_number_of_finished_trials_is_exact_and_pruned_ones_count(
    plan: StudyPlan, database: Database
) -> None:
    run(plan, database)

    trials = frozen(plan, database)
    states = {trial.state.name for trial in trials}
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert states == {"COMPLETE", "PRUNED"}


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_even_fewer_trials_than_were_enqueued_are_exact(
    plan: StudyPlan, database: Database, trials: int
) -> None:
    executor = run(plan, database, trials=trials)

    finished = [trial for trial in frozen(plan, database) if trial.state.is_finished()]
    assert [trial.number for trial in finished] == list(range(trials))
    assert len(executor.jobs) == trials


def test_the_first_trials_are_quick_and_the_default_recipes_are_among_them(
    plan: StudyPlan, records: Callable[[], tuple[TrialRecord, ...]], database: Database
) -> None:
    run(plan, database)

    head, other_head, default, other_default, *others = records()
    assert default.recipe == Recipe(backbone="small", learning_rate=1e-3, freeze_depth=4)
    assert other_default.recipe == replace(default.recipe, backbone="large")
    assert head.recipe == replace(default.recipe, freeze_depth=5)
    assert other_head.recipe == replace(other_default.recipe, freeze_depth=5)
    assert [default.is_default, other_default.is_default] == [True, True]
    assert not any(trial.is_default for trial in (head, other_head, *others))


def test_the_executor_trains_what_the_study_says(plan: StudyPlan, database: Database) -> None:
    executor = run(plan, database)

    assert [job.number for job in executor.jobs] == list(range(TRIALS))
    for job, trial in zip(executor.jobs, frozen(plan, database), strict=True):
        recipe = {name: getattr(job.recipe, name) for name in trial.params}
        assert recipe == trial.params
    assert len({job.recipe for job in executor.jobs}) == TRIALS


def test_a_complete_trials_value_is_the_mean_of_its_folds_last_epochs(
    plan: StudyPlan, records: Callable[[], tuple[TrialRecord, ...]], database: Database
) -> None:
    run(plan, database)

    complete = [trial for trial in records() if trial.state == "COMPLETE"]
    assert complete
    for trial in complete:
        job = TrialJob(number=trial.number, recipe=trial.recipe)
        last = [scored(job, fold, 2).balanced_accuracy for fold in (0, 1)]
        assert trial.value == pytest.approx(sum(last) / 2)
        assert trial.value == pytest.approx(trial.cv_mean)


def test_steps_count_on_across_folds(plan: StudyPlan, database: Database) -> None:
    run(plan, database)

    pruned = 0
    for trial in frozen(plan, database):
        steps = sorted(trial.intermediate_values)
        assert steps == list(range(len(steps)))
        if trial.state.name == "PRUNED":
            pruned += 1
            assert len(steps) < 6
            assert trial.value == trial.intermediate_values[steps[-1]]
        else:
            assert len(steps) == 6
    assert pruned


def test_every_epoch_is_stored(plan: StudyPlan, database: Database) -> None:
    executor = run(plan, database)

    told = [(e.trial, e.scores) for e in executor.told if isinstance(e, EpochDone)]
    stored = database.load_epochs(plan.study)
    assert told == [(number, scores) for number, rows in stored.items() for scores in rows]


def test_the_listener_hears_of_each_trial_once(plan: StudyPlan, database: Database) -> None:
    listener = Recorder()
    run(plan, database, listener=listener, trials=3)

    trials = frozen(plan, database)[:3]
    assert listener.said == [
        ("search", 0, 3, None),
        *(
            said
            for trial in trials
            for said in (
                ("start", trial.number),
                ("end", trial.number, trial.state.name, trial.value, None),
            )
        ),
    ]


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_the_same_seed_makes_the_same_study_and_another_seed_another(
    plan: StudyPlan,
    database: Database,
    expected: Callable[[int], list[tuple[Any, ...]]],
    seed: int,
    same: bool,
) -> None:
    seeded = replace(plan, settings=replace(plan.settings, seed=seed))

    run(seeded, database, trials=TRIALS)

    assert (facts(seeded, database) == expected(TRIALS)) == same


@pytest.mark.parametrize("slots", [2, 5])
def test_several_slots_are_filled_and_the_number_is_still_exact(
    plan: StudyPlan, database: Database, slots: int
) -> None:
    executor = run(plan, database, FakeExecutor(plan, slots=slots))

    trials = frozen(plan, database)
    assert executor.most_at_once == slots
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert all(trial.state.is_finished() for trial in trials)
    assert len(executor.jobs) == TRIALS


@pytest.fixture
def gridded(plan: StudyPlan) -> StudyPlan:
    """A study whose grid has 2 backbones, 3 rates and 2 depths."""
    parameters = {**plan.space["parameters"], "freeze_depth": {"low": 4, "high": 5}}
    settings = replace(plan.settings, sampler="grid", pruner="none")
    return replace(plan, space={**plan.space, "parameters": parameters}, settings=settings)


def untuned(plan: StudyPlan) -> int:
    """How many trials come before the sampler's own."""
    return len(SearchSpace.from_dict(plan.space).first_params())


@pytest.mark.parametrize("slots", [1, 2, 9])
def test_each_point_of_a_grid_is_tried_once_however_many_are_tried_at_a_time(
    gridded: StudyPlan, database: Database, slots: int
) -> None:
    executor = run(gridded, database, FakeExecutor(gridded, slots=slots), trials=100)

    assert len(executor.jobs) == untuned(gridded) + 2 * 3 * 2


def test_a_trial_killed_before_the_grid_gave_it_a_point_is_given_one(
    gridded: StudyPlan, database: Database
) -> None:
    run(gridded, database, FakeExecutor(gridded), trials=untuned(gridded))
    study = open_study(gridded, database)
    study._storage.create_new_trial(study._study_id)

    executor = run(gridded, database, FakeExecutor(gridded), trials=100)

    assert len({job.recipe for job in executor.jobs}) == len(executor.jobs) == 2 * 3 * 2


# --- going on -------------------------------------------------------------------------------


def test_a_finished_study_trains_nothing_more(plan: StudyPlan, database: Database) -> None:
    run(plan, database)
    before = facts(plan, database)
    listener = Recorder()

    executor = run(plan, database, listener=listener)

    assert executor.jobs == []
    assert facts(plan, database) == before
    finished = load_trials(database, plan)
    best = max(finished, key=lambda t: t.value or 0.0 if t.state == "COMPLETE" else 0.0)
    assert listener.said == [("search", TRIALS, TRIALS, best.number)]


@pytest.fixture(scope="module")
def undisturbed() -> list[tuple[Any, ...]]:
    """The facts of each trial of a study that nothing interrupted, in order."""
    return []


@pytest.fixture
def expected(
    undisturbed: list[tuple[Any, ...]],
    plan: StudyPlan,
    tmp_path: Path,
    environment: Any,
) -> Callable[[int], list[tuple[Any, ...]]]:
    """The first so many trials of an undisturbed study in a database of its own, run once."""
    if not undisturbed:
        database = Database.open(f"sqlite:///{tmp_path / 'undisturbed.db'}")
        database.save_plan(plan, environment)
        run(plan, database)
        undisturbed += facts(plan, database)
        database.close()
    return lambda trials: undisturbed[:trials]


def test_more_trials_go_on_where_fewer_ended(
    plan: StudyPlan, database: Database, expected: Callable[[int], list[tuple[Any, ...]]]
) -> None:
    run(plan, database, trials=5)
    executor = run(plan, database)

    assert [job.number for job in executor.jobs] == list(range(5, TRIALS))
    assert facts(plan, database) == expected(TRIALS)


SOON = (0, 1, 5, 6, 7, 20)


@pytest.mark.parametrize(
    "cut", [*SOON, *(pytest.param(n, marks=pytest.mark.slow) for n in range(40) if n not in SOON)]
)
def test_a_study_interrupted_at_any_event_ends_as_an_undisturbed_one(
    plan: StudyPlan,
    database: Database,
    expected: Callable[[int], list[tuple[Any, ...]]],
    cut: int,
) -> None:
    with pytest.raises(Killed):
        run(plan, database, FakeExecutor(plan, die_at=cut), trials=7)
    run(plan, database, trials=7)

    assert facts(plan, database) == expected(7)


def test_a_study_interrupted_again_and_again_ends_as_an_undisturbed_one(
    plan: StudyPlan, database: Database, expected: Callable[[int], list[tuple[Any, ...]]]
) -> None:
    """Each run hears one event more of the trial at hand than the one before, and dies."""
    for finished in range(3):
        for heard in range(1, 7):
            with pytest.raises(Killed):
                run(plan, database, FakeExecutor(plan, die_at=heard), trials=3)
        run(plan, database, trials=finished + 1)

    assert facts(plan, database) == expected(3)


def test_several_running_trials_are_all_taken_up_again_under_their_numbers(
    plan: StudyPlan, database: Database
) -> None:
    with pytest.raises(Killed):
        run(plan, database, FakeExecutor(plan, slots=3, die_at=4))
    begun = {t.number: t.params for t in frozen(plan, database) if t.state.name == "RUNNING"}
    assert len(begun) == 3

    executor = run(plan, database, FakeExecutor(plan, slots=3))

    taken_up = {job.number: job.recipe for job in executor.jobs[:3]}
    for number, params in begun.items():
        assert {name: getattr(taken_up[number], name) for name in params} == params
    trials = frozen(plan, database)
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert all(trial.state.is_finished() for trial in trials)


@pytest.fixture
def kill_before_transaction(database: Database) -> Iterator[Callable[[int], None]]:
    """Die at the start of a database transaction, so that all before it is stored and no more."""
    left = [-1]

    def die(_connection: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    engine = database.storage.engine
    event.listen(engine, "begin", die)

    def arm(transactions: int) -> None:
        left[0] = transactions

    yield arm
    event.remove(engine, "begin", die)


# Some while the study is made, and some in and around the drawing of a trial's parameters.
EARLY = (*range(1, 30, 7), *range(84, 93, 2))


@pytest.mark.parametrize(
    "transaction",
    [
        *EARLY,
        *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 115) if n not in EARLY),
    ],
)
def test_a_study_killed_between_two_writes_ends_as_an_undisturbed_one(
    plan: StudyPlan,
    database: Database,
    expected: Callable[[int], list[tuple[Any, ...]]],
    kill_before_transaction: Callable[[int], None],
    transaction: int,
) -> None:
    kill_before_transaction(transaction)
    with pytest.raises(Killed):
        run(plan, database, trials=6)
    database.storage.remove_session()
    run(plan, database, trials=6)

    assert facts(plan, database) == expected(6)


# --- failing trials -------------------------------------------------------------------------


def test_failed_trials_do_not_count_and_say_why(
    plan: StudyPlan, records: Callable[[], tuple[TrialRecord, ...]], database: Database
) -> None:
    listener = Recorder()
    failing = FakeExecutor(plan, fails=lambda number: number in (1, 3))
    run(plan, database, failing, trials=6, listener=listener)

    states = [trial.state for trial in records()]
    assert [states.count(state) for state in ("FAIL", "RUNNING")] == [2, 0]
    assert len(states) == 8
    assert states[1] == states[3] == "FAIL"
    assert records()[1].error == "bad trial code: disaster 1"
    assert records()[1].value is None
    assert ("end", 3, "FAIL", None, "bad trial code: disaster 1") in listener.said


def test_nine_failures_are_borne(plan: StudyPlan, database: Database) -> None:
    run(plan, database, FakeExecutor(plan, fails=lambda number: number < 9), trials=3)

    assert sum(trial.state.is_finished() for trial in frozen(plan, database)) == 12


def test_ten_failures_end_the_study_with_what_they_said(
    plan: StudyPlan, database: Database
) -> None:
    executor = FakeExecutor(plan, fails=lambda _number: True)

    with pytest.raises(BenchError) as caught:
        run(plan, database, executor)

    assert len(executor.jobs) == 10
    for said in ("10 trials failed", "bad trial code: disaster 0", "bad trial code: disaster 1"):
        assert said in str(caught.value)
