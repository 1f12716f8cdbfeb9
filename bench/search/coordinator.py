"""The one process that asks and tells a study; executors only train for it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import optuna
from optuna.trial import Trial, TrialState

from bench.database import Database
from bench.errors import BenchError
from bench.records import (
    EpochDone,
    EpochScores,
    Recipe,
    StudyPlan,
    TrialDone,
    TrialFailed,
    TrialJob,
)
from bench.records import (
    TrialState as State,
)
from bench.search.executors import Executor
from bench.search.pruners import running_mean, step_of
from bench.search.racing import Floats, is_worse, log_losses
from bench.search.study import FINISHED, make_sampler, state_of
from bench.space import SearchSpace
from bench.training.folds import fold_file, read_fold
from bench.workspace import Workspace

# A study whose trials keep failing is ended instead of running on for ever.
_MOST_FAILURES = 10


class Listener(Protocol):
    """Follows a search; the command line draws what it hears."""

    def stage(self, text: str) -> None: ...

    def search_started(self, plan: StudyPlan, *, finished: int, total: int) -> None: ...

    def trial_started(self, number: int, recipe: Recipe) -> None: ...

    def epoch_scored(self, number: int, scores: EpochScores, mean: float) -> None: ...

    def trial_ended(
        self, number: int, state: State, value: float | None, error: str | None = None
    ) -> None: ...

    def search_ended(self) -> None: ...


class Coordinator:
    """Runs a study to an exact number of finished trials (complete or pruned).

    The caller holds the study's lock, so every trial that the database calls running is a
    leftover of a killed run. It is taken up again under its own number: it keeps its parameters
    and seed, and what its finished folds gave.
    """

    def __init__(
        self, plan: StudyPlan, study: optuna.Study, database: Database, listener: Listener
    ) -> None:
        self._plan = plan
        self._study = study
        self._database = database
        self._listener = listener
        self._space = SearchSpace.from_dict(plan.space)
        self._distributions = self._space.distributions()
        self._running: dict[int, Trial] = {}
        self._epochs: dict[int, list[EpochScores]] = {}
        self._failures: list[TrialFailed] = []

    def run(self, executor: Executor, trials: int) -> None:
        """Train until `trials` are finished in all, counting those of earlier runs.

        Raises:
            BenchError: too many trials failed.
        """
        leftovers = self._leftovers()
        finished = self._finished()
        self._listener.search_started(self._plan, finished=finished, total=trials)
        while finished < trials:
            while len(self._running) < min(executor.slots, trials - finished):
                self._start(executor, leftovers.pop(0) if leftovers else None)
            event = executor.next_event()
            match event:
                case EpochDone():
                    go_on = self._take_epoch(event)
                    executor.answer(event.trial, go_on=go_on)
                    finished += not go_on
                case TrialDone():
                    self._complete(event.trial)
                    finished += 1
                case TrialFailed():
                    self._fail(event)
        self._listener.search_ended()

    def _leftovers(self) -> list[Trial]:
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [Trial(self._study, frozen._trial_id) for frozen in running]

    def _finished(self) -> int:
        return len(self._study.get_trials(deepcopy=False, states=FINISHED))

    def _start(self, executor: Executor, leftover: Trial | None) -> None:
        number = leftover.number if leftover else len(self._study.get_trials(deepcopy=False))
        params: dict[str, object] = {}
        self._study.sampler = make_sampler(self._plan.settings.seed, number)
        trial = leftover or self._study.ask()
        _ = trial.relative_params  # drawn lazily; here, with the trial's own sampler
        for position, (name, distribution) in enumerate(self._distributions.items()):
            # A sampler of its own for each parameter: a trial that was killed while its
            # parameters were drawn draws the rest as if nothing had happened.
            self._study.sampler = make_sampler(self._plan.settings.seed, number, position + 1)
            params[name] = trial._suggest(name, distribution)
        recipe = self._space.recipe(params)
        self._running[trial.number] = trial
        self._epochs[trial.number] = []
        self._listener.trial_started(trial.number, recipe)
        executor.submit(TrialJob(number=trial.number, recipe=recipe))

    def _take_epoch(self, event: EpochDone) -> bool:
        """Record an epoch; return whether the trial goes on."""
        trial, scores = self._running[event.trial], event.scores
        epochs = self._epochs[event.trial]
        epochs.append(scores)
        mean = running_mean(epochs)
        self._database.save_epoch(self._plan.study, event.trial, scores)
        step = step_of(scores, self._plan.settings.epochs)
        # Steps of an interrupted run are told again, and Optuna keeps the first report.
        if step not in self._frozen(trial).intermediate_values:
            trial.report(mean, step)
        self._listener.epoch_scored(event.trial, scores, mean)
        last = len(self._plan.split.folds) * self._plan.settings.epochs - 1
        if step < last and self._should_stop(trial, scores):
            self._end(event.trial, TrialState.PRUNED)
            return False
        return True

    def _should_stop(self, trial: Trial, scores: EpochScores) -> bool:
        if self._plan.settings.pruner != "racing":
            return trial.should_prune()
        if scores.epoch < self._plan.settings.epochs - 1:
            return False
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not complete:
            return False
        best = max(complete, key=lambda other: (other.value or 0.0, -other.number))
        ours, theirs = (
            self._losses(trial.number, scores.fold),
            self._losses(best.number, scores.fold),
        )
        if ours is None or theirs is None:
            return False
        pictures = [i for fold in self._plan.split.folds[: scores.fold + 1] for i in fold]
        groups = [self._plan.dataset.pictures[i].group or i for i in pictures]
        return is_worse(ours, theirs, groups)

    def _losses(self, number: int, last_fold: int) -> Floats | None:
        """Log-losses of the validation pictures up to a fold, as the trainer stored them.

        None where a file is missing or damaged: then there is nothing to race on.
        """
        workspace = Workspace(Path(self._plan.workspace))
        labels = np.asarray(self._plan.dataset.labels, dtype=np.int64)
        losses = []
        for fold in range(last_fold + 1):
            result = read_fold(fold_file(workspace, self._plan.study, number, fold))
            if result is None:
                return None
            losses.append(log_losses(labels[result.pictures], result.probabilities_nk))
        return np.concatenate(losses)

    def _complete(self, number: int) -> None:
        self._end(number, TrialState.COMPLETE, running_mean(self._epochs[number]))

    def _fail(self, event: TrialFailed) -> None:
        trial = self._running[event.trial]
        trial.set_user_attr("error", f"{event.kind}: {event.message}")
        self._end(event.trial, TrialState.FAIL, error=f"{event.kind}: {event.message}")
        self._failures.append(event)
        if len(self._failures) >= _MOST_FAILURES:
            kinds = sorted({f"{failure.kind}: {failure.message}" for failure in self._failures})
            raise BenchError(
                f"{len(self._failures)} trials failed, so the study was stopped; what they said: "
                + "; ".join(kinds[:3])
            )

    def _end(
        self,
        number: int,
        state: TrialState,
        value: float | None = None,
        error: str | None = None,
    ) -> None:
        trial = self._running.pop(number)
        del self._epochs[number]
        told = self._study.tell(trial.number, value, state=state)
        self._listener.trial_ended(number, state_of(told), told.value, error)

    def _frozen(self, trial: Trial) -> optuna.trial.FrozenTrial:
        return self._study._storage.get_trial(trial._trial_id)
