"""The Optuna study behind a plan: made once, resumed only with the same plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from bench.database import Database
from bench.errors import InputError, StudyMismatchError
from bench.records import Settings, Split, StudyPlan, to_builtins, trial_order
from bench.records import TrialState as State
from bench.search.pruners import make_pruner
from bench.search.storage import OwnedStorage
from bench.space import SearchSpace, changes
from bench.words import counted

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
DEFAULT_RECIPE = "default_recipe"  # marks the trials of the untuned recipes, one a backbone
TARGET = "trials_wanted"  # how many finished trials the study's last run was begun for
ENDED = "ended_early"  # says which limit ended the study's last run
REMARK = "remark"  # what was unusual about a trial that completed
FAILURES = "failures"  # what stopped a trial, once an attempt
GRID_ID = "grid_id"  # Optuna's mark of a trial whose recipe is a point of the grid


def open_study(plan: StudyPlan, database: Database) -> optuna.Study:
    """Create the study, or load it to go on; a new one begins with the space's first trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = optuna.get_all_study_names(database.storage)
    study = optuna.create_study(
        study_name=plan.study,
        storage=OwnedStorage(database.storage),
        direction="maximize",
        pruner=make_pruner(
            plan.settings.pruner, folds=len(plan.split.folds), epochs=plan.settings.epochs
        ),
        load_if_exists=True,
    )
    if plan.study not in known:
        database.drop_epochs(plan.study)  # of a study of that name that was deleted
        study.set_user_attr("dataset", plan.dataset.name)
        study.set_user_attr("data_fingerprint", plan.dataset.fingerprint)
    _enqueue_first_trials(study, SearchSpace.from_dict(plan.space))
    return study


def _enqueue_first_trials(study: optuna.Study, space: SearchSpace) -> None:
    """Enqueue what is missing of a study's first trials, as long as none of them has begun.

    A kill may fall between two of them, or between the study's creation and the first.
    """
    if any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
        return
    defaults = space.default_params()
    for params in space.first_params():
        marks = {DEFAULT_RECIPE: True} if params in defaults else None
        study.enqueue_trial(params, user_attrs=marks, skip_if_exists=True)


def load_study(name: str, database: Database) -> optuna.Study:
    """Load a study for reading.

    Raises:
        InputError: there is none of that name; the message lists those that are there.
    """
    try:
        return optuna.load_study(study_name=name, storage=database.storage)
    except KeyError:
        there = ", ".join(database.studies()) or "none yet"
        raise InputError(f"no study is called {name!r}; there are: {there}") from None


def refuse_changes(stored: StudyPlan, wanted: StudyPlan) -> None:
    """Compare what a study was begun with and what it shall go on with.

    Raises:
        StudyMismatchError: they differ; every difference is named.
    """
    # What the settings, or the split, tell of as well is told by them.
    told = {field.name for field in fields(Settings)}
    if stored.dataset.fingerprint == wanted.dataset.fingerprint:
        told.add("folds")
    space = SearchSpace.from_dict(wanted.space)
    differences = list(changes(stored.space, space, leave_out=told))
    differences += _changed_data(stored, wanted)
    differences += _changed_values("setting", stored.settings, wanted.settings)
    differences += _changed_values("weights of", stored.weights, wanted.weights)
    if stored.device != wanted.device:
        differences.append(f"device: {stored.device} -> {wanted.device}")
    if differences:
        raise StudyMismatchError(
            f"the study {stored.study!r} was begun differently and cannot go on:\n  "
            + "\n  ".join(differences)
            + "\nGive the old options again, or a new name with --study."
        )


def _changed_data(stored: StudyPlan, wanted: StudyPlan) -> Iterable[str]:
    if stored.dataset.fingerprint != wanted.dataset.fingerprint:
        old, new = stored.dataset, wanted.dataset
        before = {(p.path, p.sha256, p.label, p.group) for p in old.pictures}
        now = {(p.path, p.sha256, p.label, p.group) for p in new.pictures}
        yield (
            f"data set: {counted(len(now - before), 'picture is', 'pictures are')} new or altered "
            f"and {counted(len(before - now), 'is', 'are')} gone or altered "
            f"({old.fingerprint} -> {new.fingerprint})"
        )
        if old.tied != new.tied:
            yield f"ties: {'; '.join(map(str, old.tied))} -> {'; '.join(map(str, new.tied))}"
        if old.crop != new.crop:
            yield f"crop: {old.crop} -> {new.crop}"
    elif stored.split.fingerprint != wanted.split.fingerprint:
        if stored.split.protocol not in (None, wanted.split.protocol):
            yield f"protocol: {stored.split.protocol} -> {wanted.split.protocol}"
        begun, asked = stored.split.seed, wanted.split.seed
        seeds = "" if begun == asked else f" (seed {begun} -> {asked})"
        yield f"split: {_sizes(stored.split)} -> {_sizes(wanted.split)}{seeds}"


def _sizes(split: Split) -> str:
    return f"{len(split.folds)} folds and {counted(len(split.test), 'test picture')}"


def _changed_values(what: str, stored: object, wanted: object) -> Iterable[str]:
    old: Mapping[str, Any] = to_builtins(stored)
    new: Mapping[str, Any] = to_builtins(wanted)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{what} {name}: {old.get(name)} -> {new.get(name)}"


@dataclass(frozen=True, slots=True)
class Tally:
    """How far a study is.

    `best` is a score with its trial's number, `since_best` counts the finished trials after it,
    `drawn` those that took a recipe from a grid.
    """

    finished: int = 0
    best: tuple[float, int] | None = None
    since_best: int = 0
    drawn: int = 0

    @classmethod
    def of(cls, study: optuna.Study) -> Tally:
        """Count what earlier runs have done."""
        ended = [trial for trial in study.get_trials(deepcopy=False) if trial.datetime_complete]
        tally = cls()
        for trial in sorted(ended, key=lambda trial: (trial.datetime_complete, trial.number)):
            tally = tally.after(trial)
        return tally

    def after(self, trial: FrozenTrial) -> Tally:
        """Count one more trial that has ended."""
        drawn = self.drawn + (GRID_ID in trial.system_attrs)
        if trial.state not in FINISHED:
            return replace(self, drawn=drawn)
        best, since_best = self.best, self.since_best + 1
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            score = trial.value, trial.number
            if best is None or score[0] > best[0]:
                since_best = 0  # an equal one is no improvement
            best = max(best or score, score, key=lambda one: trial_order(*one))
        return Tally(self.finished + 1, best, since_best, drawn)


def state_of(trial: FrozenTrial) -> State:
    """The trial's state as a word."""
    return cast(State, trial.state.name)
