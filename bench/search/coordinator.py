"""The one process that asks and tells a study; executors only train for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from bench.database import Database
from bench.errors import BenchError, WorkspaceError
from bench.listener import Listener
from bench.records import (
    EpochDone,
    EpochScores,
    FailureKind,
    StudyPlan,
    TrialDone,
    TrialFailed,
    TrialJob,
)
from bench.search.budget import Budget, format_duration
from bench.search.executors import Executor
from bench.search.pruners import running_mean, step_of
from bench.search.racing import Race, groups_by_fold, stored_losses
from bench.search.samplers import grid_size, make_sampler
from bench.search.study import ENDED, FAILURES, GRID_ID, REMARK, TARGET, Tally, state_of
from bench.space import SearchSpace
from bench.words import counted

# What another try can mend: the machine was short of something, the trial did nothing wrong.
_RETRIED: frozenset[FailureKind] = frozenset({"worker died", "out of memory"})


@dataclass(slots=True)
class _Running:
    """A trial that is being trained."""

    trial: Trial
    job: TrialJob
    started_s: float
    epochs: list[EpochScores] = field(default_factory=list)


class Coordinator:
    """Runs a study to an exact number of finished trials (complete or pruned), or to a limit.

    The caller holds the study's lock, so every trial that the database calls running is a
    leftover of a killed run. It is taken up again under its own number: it keeps its parameters
    and seed, and what its finished folds gave. `clock` tells seconds.
    """

    def __init__(
        self,
        plan: StudyPlan,
        study: optuna.Study,
        database: Database,
        listener: Listener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._study = study
        self._database = database
        self._listener = listener
        self._clock = clock
        self._space = SearchSpace.from_dict(plan.space)
        self._distributions = self._space.distributions()
        self._race = Race(
            study,
            groups_by_fold(plan),
            partial(stored_losses, plan),
            epochs=plan.settings.epochs,
        )
        self._running: dict[int, _Running] = {}
        self._leftovers: list[FrozenTrial] = []
        self._tally = Tally.of(study)
        self._failures: list[TrialFailed] = []

    def run(self, executor: Executor, budget: Budget) -> None:
        """Train until the budget is used up; trials count over all runs of the study.

        A trial that runs when a limit ends the study is left as it is, to be taken up again.

        Raises:
            WorkspaceError: the disk is full or cannot be written; all that was told is kept.
            BenchError: too many trials failed.
        """
        began_s = self._clock()
        self._leftovers = self._interrupted()
        self._study.set_user_attr(ENDED, None)
        self._study.set_user_attr(TARGET, budget.trials)
        self._listener.search_started(
            self._plan,
            finished=self._tally.finished,
            total=budget.trials,
            best=self._tally.best,
        )
        while self._tally.finished < budget.trials:
            limit = self._limit(budget, self._clock() - began_s)
            if limit is not None:
                self._study.set_user_attr(ENDED, limit)
                self._listener.stage(f"the search ends: {limit}")
                break
            self._fill(executor, budget)
            event = executor.next_event(self._wait_s(budget, began_s))
            match event:
                case EpochDone():
                    executor.answer(event.trial, go_on=self._take_epoch(event))
                case TrialDone():
                    self._complete(event)
                case TrialFailed():
                    self._fail(event, executor, budget)
            self._cancel_overdue(executor, budget)

    # --- limits -----------------------------------------------------------------------------

    def _limit(self, budget: Budget, elapsed_s: float) -> str | None:
        """Say which limit the study has come to, if any."""
        done = f"after {self._tally.finished} of {counted(budget.trials, 'trial')}"
        if budget.timeout_s is not None and elapsed_s >= budget.timeout_s:
            return f"--timeout {format_duration(budget.timeout_s)} was over {done}"
        if budget.patience is not None and self._tally.since_best >= budget.patience:
            return (
                f"--patience {budget.patience}: no better score in "
                f"{counted(self._tally.since_best, 'trial')}, {done}"
            )
        if self._grid_is_used_up() and not self._running and not self._leftovers:
            recipes = counted(grid_size(self._space), "recipe has", "recipes have")
            return f"the grid's {recipes} all been tried, {done}"
        return None

    def _grid_is_used_up(self) -> bool:
        """Whether every recipe of a grid has been tried, or is being."""
        if self._plan.settings.sampler != "grid":
            return False
        running = [self._frozen(run.trial) for run in self._running.values()]
        drawn = self._tally.drawn + sum(GRID_ID in trial.system_attrs for trial in running)
        return drawn >= grid_size(self._space)

    def _wait_s(self, budget: Budget, began_s: float) -> float | None:
        """How long to wait for an event: until the next limit in time."""
        limits_s = []
        if budget.timeout_s is not None:
            limits_s.append(began_s + budget.timeout_s)
        if budget.trial_timeout_s is not None:
            limits_s += [run.started_s + budget.trial_timeout_s for run in self._running.values()]
        return max(min(limits_s) - self._clock(), 0.0) if limits_s else None

    def _cancel_overdue(self, executor: Executor, budget: Budget) -> None:
        if budget.trial_timeout_s is None:
            return
        for number, run in list(self._running.items()):
            if self._clock() - run.started_s >= budget.trial_timeout_s:
                executor.cancel(number)
                allowed = format_duration(budget.trial_timeout_s)
                message = f"it took longer than --trial-timeout {allowed}"
                failed = TrialFailed(trial=number, kind="time limit", message=message)
                self._fail(failed, executor, budget)

    # --- trials -----------------------------------------------------------------------------

    def _fill(self, executor: Executor, budget: Budget) -> None:
        """Begin as many trials as there is room for, those of a killed run first."""
        free = min(executor.slots, budget.trials - self._tally.finished) - len(self._running)
        for _ in range(free):
            if self._leftovers:
                self._start(executor, self._leftovers.pop(0))
            elif not self._grid_is_used_up():
                self._start(executor, None)

    def _interrupted(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _start(self, executor: Executor, leftover: FrozenTrial | None) -> None:
        storage, study_id = self._study._storage, self._study._study_id
        number = leftover.number if leftover else storage.get_n_trials(study_id)
        params: dict[str, object] = {}
        self._use_sampler(number, 0)
        # Both let the sampler prepare the trial: a kill may have come before it did.
        trial = Trial(self._study, leftover._trial_id) if leftover else self._study.ask()
        drawn = trial.relative_params  # drawn lazily; here, with the trial's own sampler
        for position, (name, distribution) in enumerate(self._distributions.items()):
            # A sampler of its own for each parameter: a trial that was killed while its
            # parameters were drawn draws the rest as if nothing had happened.
            if name not in drawn:
                self._use_sampler(number, position + 1)
            params[name] = trial._suggest(name, distribution)
        job = TrialJob(number=trial.number, recipe=self._space.recipe(params))
        self._running[trial.number] = _Running(trial, job, self._clock())
        self._listener.trial_started(trial.number, job.recipe)
        executor.submit(job)

    def _use_sampler(self, trial: int, parameter: int) -> None:
        settings = self._plan.settings
        self._study.sampler = make_sampler(
            settings.sampler, self._space, seed=settings.seed, trial=trial, parameter=parameter
        )

    def _take_epoch(self, event: EpochDone) -> bool:
        """Record an epoch; return whether the trial goes on."""
        run, scores = self._running[event.trial], event.scores
        run.epochs.append(scores)
        mean = running_mean(run.epochs)
        self._database.save_epoch(self._plan.study, event.trial, scores, event.conditions)
        step = step_of(scores, self._plan.settings.epochs)
        # Steps of an interrupted run are told again, and Optuna keeps the first report.
        if step not in self._frozen(run.trial).intermediate_values:
            run.trial.report(mean, step)
        self._listener.epoch_scored(event.trial, scores, mean)
        last = len(self._plan.split.folds) * self._plan.settings.epochs - 1
        if step < last and self._should_stop(run.trial, scores):
            self._end(event.trial, TrialState.PRUNED)
            return False
        return True

    def _should_stop(self, trial: Trial, scores: EpochScores) -> bool:
        if trial.should_prune():
            return True
        finished_fold = scores.epoch == self._plan.settings.epochs - 1
        races = self._plan.settings.pruner == "racing" and finished_fold
        return races and self._race.is_lost(trial.number, scores.fold)

    def _complete(self, event: TrialDone) -> None:
        run = self._running[event.trial]
        if event.remark is not None:
            run.trial.set_user_attr(REMARK, event.remark)
        self._end(event.trial, TrialState.COMPLETE, running_mean(run.epochs))

    def _fail(self, event: TrialFailed, executor: Executor, budget: Budget) -> None:
        """Try again where that can help; otherwise the trial has failed, without a score."""
        if event.kind == "workspace":
            # No trial can do better, and this one is not to blame: it stays to be taken up again.
            raise WorkspaceError(
                f"{event.message}\nEverything up to here is kept: make room, and give the same "
                "command again."
            )
        run = self._running[event.trial]
        error = f"{event.kind}: {event.message}"
        failures = [*run.trial.user_attrs.get(FAILURES, ()), error]
        run.trial.set_user_attr(FAILURES, failures)
        if event.kind in _RETRIED and len(failures) <= budget.retries:
            self._listener.stage(f"trial {event.trial} is tried again: {error}")
            run.epochs.clear()  # its finished folds are told again
            run.started_s = self._clock()
            executor.submit(run.job)
            return
        self._end(event.trial, TrialState.FAIL, error=error)
        self._failures.append(event)
        if len(self._failures) >= budget.max_failures:
            kinds = sorted({f"{failure.kind}: {failure.message}" for failure in self._failures})
            raise BenchError(
                f"{counted(len(self._failures), 'trial')} failed (--max-failures "
                f"{budget.max_failures}), so the study was stopped; what they said: "
                + "; ".join(kinds[:3])
            )

    def _end(
        self,
        number: int,
        state: TrialState,
        value: float | None = None,
        error: str | None = None,
    ) -> None:
        del self._running[number]
        # A grid sampler would stop Optuna's own loop here, which does not run.
        self._study.sampler = optuna.samplers.RandomSampler()
        told = self._study.tell(number, value, state=state)
        self._tally = self._tally.after(told)
        self._listener.trial_ended(number, state_of(told), told.value, error)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._study._storage.get_trial(trial._trial_id)
