"""Fit the temperature that a model ships with, on predictions of pictures it was not trained on.

Every fold of the trial predicted its validation pictures, and those predictions are still there:
together they are of all development pictures, each by a network that had not seen it. See
docs/calibration.md for the assumption that this makes.

Shapes: N pictures, K classes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.promote.select import Candidate
from bench.records import Calibration, Dataset, Predictions, StudyPlan
from bench.statistics.answers import Floats, Integers, groups_of
from bench.statistics.calibration import (
    effect_of,
    fit_temperature,
    is_determined,
    with_temperature,
)
from bench.training.folds import FoldResult, fold_file, read_own_fold
from bench.workspace import Workspace


def fit_calibration(plan: StudyPlan, candidate: Candidate) -> Calibration:
    """Fit a temperature to a trial's out-of-fold predictions, and judge it on other folds.

    It ships only if a temperature fitted on all other folds lowers a fold's log-loss, on the mean
    of all pictures; folds hold whole groups wherever the split does. A trial that was pruned has
    fewer folds; of a single one nothing could be judged, so two are needed.
    """
    folds = out_of_fold(plan, candidate)
    if len(folds) < 2:
        return Calibration(
            temperature=1.0,
            why_none=f"the predictions of {len(folds)} of {len(plan.split.folds)} folds are there, "
            "and a temperature needs two",
        )
    labels = np.asarray(plan.dataset.labels, dtype=np.int64)
    fold_of_n = np.repeat(np.arange(len(folds)), [len(fold.pictures) for fold in folds])
    pictures_n = np.concatenate([fold.pictures for fold in folds])
    labels_n = labels[pictures_n]
    before_nk = np.concatenate([fold.probabilities_nk for fold in folds]).astype(np.float64)
    after_nk, fold_temperatures = _cross_fitted(labels_n, before_nk, fold_of_n)
    groups_n, unit = groups_of(plan.dataset, pictures_n.tolist())
    effect = effect_of(labels_n, before_nk, after_nk, groups_n, unit)
    fitted = fit_temperature(labels_n, before_nk)
    why_none = None
    if not is_determined(labels_n, before_nk, fitted):
        why_none = "the out-of-fold answers determine no temperature: they are all right, or noise"
    elif effect.log_loss_change.value >= 0.0:
        why_none = (
            "fitted on the other folds it does not lower the log-loss of a fold "
            f"({effect.log_loss_change.value:+.4f} nats)"
        )
    return Calibration(
        temperature=fitted if why_none is None else 1.0,
        fitted=fitted,
        fold_temperatures=fold_temperatures,
        why_none=why_none,
        out_of_fold=effect,
    )


def with_test_effect(
    calibration: Calibration, predictions: Predictions, dataset: Dataset
) -> Calibration:
    """Add what the temperature does on the test set, from the shipped file's own predictions."""
    labels_n = np.asarray(predictions.labels, dtype=np.int64)
    after_nk = np.asarray(predictions.probabilities, dtype=np.float64)
    before_nk = with_temperature(after_nk, 1.0 / calibration.temperature)
    groups_n, unit = groups_of(dataset, predictions.indices)
    return replace(calibration, test=effect_of(labels_n, before_nk, after_nk, groups_n, unit))


def out_of_fold(plan: StudyPlan, candidate: Candidate) -> tuple[FoldResult, ...]:
    """Read the finished folds of a trial that are of this very training, in their order."""
    workspace = Workspace(Path(plan.workspace))
    files = (
        fold_file(workspace, plan.study, candidate.trial, fold)
        for fold in range(len(plan.split.folds))
    )
    found = (read_own_fold(file, plan, candidate.recipe) for file in files)
    return tuple(fold for fold in found if fold is not None)


def _cross_fitted(
    labels_n: Integers, probabilities_nk: Floats, fold_of_n: Integers
) -> tuple[Floats, tuple[float, ...]]:
    """Apply to each fold the temperature that was fitted on all the others."""
    after_nk, temperatures = np.empty_like(probabilities_nk), []
    for fold in np.unique(fold_of_n):
        own_n = fold_of_n == fold
        temperatures.append(fit_temperature(labels_n[~own_n], probabilities_nk[~own_n]))
        after_nk[own_n] = with_temperature(probabilities_nk[own_n], temperatures[-1])
    return after_nk, tuple(temperatures)
