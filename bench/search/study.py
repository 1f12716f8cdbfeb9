"""The Optuna study behind a plan: made once, resumed only with the same plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import optuna
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from bench.database import Database
from bench.errors import InputError, StudyMismatchError
from bench.records import StudyPlan, to_builtins
from bench.records import TrialState as State
from bench.search.pruners import make_pruner
from bench.space import SearchSpace, changes

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
DEFAULT_RECIPE = "default_recipe"
_STARTUP_TRIALS = 10


def open_study(plan: StudyPlan, database: Database) -> optuna.Study:
    """Create the study, or load it to go on; a new one begins with the default recipes."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = {summary.study_name for summary in optuna.get_all_study_summaries(database.storage)}
    study = optuna.create_study(
        study_name=plan.study,
        storage=database.storage,
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
    # Enqueued here and not with the creation alone, because a kill may fall in between.
    enqueued = {t.user_attrs.get(DEFAULT_RECIPE) for t in study.get_trials(deepcopy=False)}
    for number, params in enumerate(SearchSpace.from_dict(plan.space).default_params()):
        if number not in enqueued:
            study.enqueue_trial(params, user_attrs={DEFAULT_RECIPE: number})
    return study


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
    differences = list(changes(stored.space, SearchSpace.from_dict(wanted.space)))
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
            f"data set: {len(now - before)} pictures are new or altered and {len(before - now)} "
            f"are gone or altered ({old.fingerprint} -> {new.fingerprint})"
        )
        if old.crop != new.crop:
            yield f"crop: {old.crop} -> {new.crop}"
    elif stored.split.fingerprint != wanted.split.fingerprint:
        yield (
            f"split: {len(stored.split.folds)} folds and {len(stored.split.test)} test pictures "
            f"-> {len(wanted.split.folds)} folds and {len(wanted.split.test)} test pictures "
            f"(seed {stored.split.seed} -> {wanted.split.seed})"
        )


def _changed_values(what: str, stored: object, wanted: object) -> Iterable[str]:
    old: Mapping[str, Any] = to_builtins(stored)
    new: Mapping[str, Any] = to_builtins(wanted)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{what} {name}: {old.get(name)} -> {new.get(name)}"


def make_sampler(seed: int, trial: int, parameter: int = 0) -> BaseSampler:
    """A TPE sampler whose draws depend on the study's seed and the trial's number.

    0 is for what is drawn jointly; parameters that are drawn alone count from 1. One fixed seed
    would make a resumed study draw again what it drew at its start.
    """
    derived = int(np.random.SeedSequence([seed, trial, parameter]).generate_state(1)[0])
    return TPESampler(n_startup_trials=_STARTUP_TRIALS, seed=derived)


def state_of(trial: FrozenTrial) -> State:
    """The trial's state as a word."""
    return cast(State, trial.state.name)
