"""The temperature comes from out-of-fold predictions, and ships only if it helps on other folds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from bench.promote.calibrate import fit_calibration, with_test_effect
from bench.promote.select import Candidate
from bench.records import Predictions, Recipe, StudyPlan
from bench.training.folds import FoldResult, fold_file, training_identity, write_fold
from bench.workspace import Workspace
from tests.tiny import BACKBONE, make_plan, write_pictures

RECIPE = Recipe(backbone=BACKBONE, learning_rate=1e-3, freeze_depth=4)
CANDIDATE = Candidate(name="net-best", role="best", trial=3, recipe=RECIPE, cv_mean=0.5, cv_sd=0.1)


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    return make_plan(write_pictures(tmp_path / "pictures"), tmp_path / "runs")


def write_folds(
    plan: StudyPlan, sureness: Callable[[int], float], *, accuracy: float = 0.7, folds: int = 2
) -> None:
    """Finished folds whose answers are right so often, and as sure as told of each fold."""
    labels = np.asarray(plan.dataset.labels)
    for fold in range(folds):
        pictures = np.asarray(plan.split.folds[fold])
        right = np.arange(len(pictures)) < accuracy * len(pictures)
        named = np.where(right, labels[pictures], (labels[pictures] + 1) % 3)
        probabilities = softmax(sureness(fold) * np.eye(3)[named], axis=1)
        write_fold(
            fold_file(Workspace(Path(plan.workspace)), plan.study, CANDIDATE.trial, fold),
            FoldResult(
                training_identity(plan, RECIPE), (), pictures, probabilities.astype(np.float32)
            ),
        )


def test_overconfident_folds_give_a_temperature_that_helps_on_the_other_fold(
    plan: StudyPlan,
) -> None:
    write_folds(plan, lambda _: 8.0)
    calibration = fit_calibration(plan, CANDIDATE)
    # An accuracy of a among three classes is the softmax of one logit of log(2 a / (1 - a)).
    labels = [len(fold) for fold in plan.split.folds]
    right = sum(np.ceil(0.7 * count) for count in labels) / sum(labels)
    assert calibration.fitted == pytest.approx(8.0 / np.log(2 * right / (1 - right)), rel=1e-3)
    assert calibration.temperature == calibration.fitted
    assert calibration.why_none is None
    assert len(calibration.fold_temperatures) == 2
    assert calibration.out_of_fold is not None
    assert calibration.out_of_fold.pictures == len(plan.split.development)
    assert calibration.out_of_fold.log_loss_change.value < -0.5


def test_the_same_folds_give_the_same_calibration(plan: StudyPlan) -> None:
    write_folds(plan, lambda _: 8.0)
    assert fit_calibration(plan, CANDIDATE) == fit_calibration(plan, CANDIDATE)


def test_a_temperature_that_harms_the_other_fold_is_not_shipped(plan: StudyPlan) -> None:
    """One fold is far too sure and one far from sure enough: each cure is the other's poison."""
    write_folds(plan, lambda fold: (8.0, 0.05)[fold])
    calibration = fit_calibration(plan, CANDIDATE)
    assert calibration.temperature == 1.0
    assert calibration.fitted is not None
    assert "does not lower the log-loss" in (calibration.why_none or "")


def test_answers_that_are_all_right_are_not_made_surer_without_end(plan: StudyPlan) -> None:
    write_folds(plan, lambda _: 2.0, accuracy=1.0)
    calibration = fit_calibration(plan, CANDIDATE)
    assert calibration.temperature == 1.0
    assert "determine no temperature" in (calibration.why_none or "")


@pytest.mark.parametrize("folds", [0, 1])
def test_fewer_than_two_finished_folds_give_none(plan: StudyPlan, folds: int) -> None:
    write_folds(plan, lambda _: 8.0, folds=folds)
    calibration = fit_calibration(plan, CANDIDATE)
    assert (calibration.temperature, calibration.out_of_fold) == (1.0, None)
    assert f"{folds} of 2 folds" in (calibration.why_none or "")


def test_folds_of_another_training_do_not_count(plan: StudyPlan) -> None:
    write_folds(plan, lambda _: 8.0)
    other = replace(CANDIDATE, recipe=replace(RECIPE, learning_rate=1e-4))
    assert "0 of 2 folds" in (fit_calibration(plan, other).why_none or "")


def test_the_test_sets_before_is_the_shipped_file_without_its_temperature(plan: StudyPlan) -> None:
    write_folds(plan, lambda _: 8.0)
    calibration = fit_calibration(plan, CANDIDATE)
    test = plan.split.test
    labels = tuple(plan.dataset.labels[index] for index in test)
    logits = np.random.default_rng(0).normal(size=(len(test), 3))
    shipped = softmax(logits / calibration.temperature, axis=1)
    predictions = Predictions(
        indices=test, labels=labels, probabilities=tuple(map(tuple, shipped.tolist()))
    )
    effect = with_test_effect(calibration, predictions, plan.dataset).test
    assert effect is not None
    before = softmax(logits, axis=1)[np.arange(len(test)), labels]
    assert effect.before.log_loss.value == pytest.approx(-np.log(before).mean())
    after = shipped[np.arange(len(test)), labels]
    assert effect.after.log_loss.value == pytest.approx(-np.log(after).mean())
