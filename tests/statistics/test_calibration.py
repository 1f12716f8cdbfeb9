"""Planted temperatures are found, and what they do to the scores is what was planted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, log_loss

from bench.records import CalibrationEffect
from bench.statistics.calibration import (
    ece_by_chance,
    effect_of,
    expected_calibration_error,
    fit_temperature,
    is_determined,
    with_temperature,
)

CLASSES = 6


def planted(
    temperature: float, *, pictures: int = 4000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) drawn from probabilities (N, K), which are then made surer: T is the cure."""
    rng = np.random.default_rng(seed)
    logits = 2.0 * rng.normal(size=(pictures, CLASSES))
    # The Gumbel-max trick draws each label from the softmax of its row.
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return labels, softmax(logits * temperature, axis=1)


def effect(labels: np.ndarray, before: np.ndarray, temperature: float) -> CalibrationEffect:
    after = with_temperature(before, temperature)
    return effect_of(labels, before, after, np.arange(len(labels)) // 2, "groups")


class Scores(ClassifierMixin, BaseEstimator):
    """What scikit-learn wants around predictions that are there already: X are the logits."""

    def fit(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        self.classes_ = np.unique(labels)
        return self

    def decision_function(self, logits: np.ndarray) -> np.ndarray:
        return logits

    def predict(self, logits: np.ndarray) -> np.ndarray:
        return logits.argmax(axis=1)


# --- the fit --------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 4.0])
def test_a_planted_temperature_is_found(temperature: float) -> None:
    assert fit_temperature(*planted(temperature)) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_is_scikit_learns() -> None:
    labels, probabilities = planted(2.0, pictures=300)
    logits = np.log(probabilities)
    theirs = CalibratedClassifierCV(
        FrozenEstimator(Scores().fit(logits, labels)), method="temperature"
    ).fit(logits, labels)
    ours = with_temperature(probabilities, fit_temperature(labels, probabilities))
    np.testing.assert_allclose(ours, theirs.predict_proba(logits), atol=1e-5)


def test_predictions_that_were_rounded_to_nothing_in_32_bits_are_fitted_too() -> None:
    labels, probabilities = planted(40.0)
    rounded = probabilities.astype(np.float32)
    assert (rounded == 0.0).any()
    assert 10 < fit_temperature(labels, rounded) < 20.1


@pytest.mark.parametrize("right", [True, False], ids=["all right", "all wrong"])
def test_answers_that_are_all_alike_determine_no_temperature(right: bool) -> None:
    labels = np.arange(60) % CLASSES
    named = labels if right else (labels + 1) % CLASSES
    probabilities = softmax(2.0 * np.eye(CLASSES)[named], axis=1)
    fitted = fit_temperature(labels, probabilities)
    assert not is_determined(labels, probabilities, fitted)


# --- the effect -----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_no_temperature_changes_a_top_class_and_its_inverse_takes_it_out(
    temperature: float,
) -> None:
    _, before = planted(1.5)
    after = with_temperature(before, temperature)
    assert np.array_equal(after.argmax(axis=1), before.argmax(axis=1))
    np.testing.assert_allclose(with_temperature(after, 1 / temperature), before, atol=1e-9)


def test_an_overconfident_model_is_cured_and_the_changes_are_beyond_chance() -> None:
    labels, before = planted(3.0, pictures=600)
    cured = effect(labels, before, 3.0)
    for change in (cured.log_loss_change, cured.brier_change):
        assert change.interval is not None
        assert change.interval[0] < change.value < change.interval[1] < 0
    assert cured.after.ece < 0.5 * cured.before.ece
    low, high = cured.after.ece_by_chance.interval or (0.0, 0.0)
    assert low < cured.after.ece < high < cured.before.ece


def test_the_scores_are_scikit_learns() -> None:
    labels, before = planted(2.0, pictures=200)
    scores = effect(labels, before, 2.0).before
    assert scores.log_loss.value == pytest.approx(log_loss(labels, before))
    assert scores.brier.value == pytest.approx(brier_score_loss(labels, before))


def test_a_temperature_of_1_changes_nothing_and_says_so() -> None:
    labels, before = planted(1.0, pictures=100)
    unchanged = effect(labels, before, 1.0)
    assert unchanged.log_loss_change.value == pytest.approx(0.0, abs=1e-12)
    assert unchanged.log_loss_change.interval is None
    assert "no resample differs" in (unchanged.log_loss_change.why_not or "")


# --- the expected calibration error -----------------------------------------------------------


def test_the_error_is_the_mean_gap_of_the_bins() -> None:
    confidences = np.asarray([0.62, 0.64, 0.9, 0.92])
    right = np.asarray([True, False, True, True])
    # Two pictures in (9/15, 10/15]: 0.5 against 0.63; two in (13/15, 14/15]: 1 against 0.91.
    assert expected_calibration_error(right, confidences) == pytest.approx((0.13 + 0.09) / 2)


def test_calibrated_probabilities_show_the_error_of_chance_which_falls_with_the_pictures() -> None:
    by_chance = []
    for pictures in (100, 1600):
        errors = []
        for seed in range(30):
            labels, probabilities = planted(1.0, pictures=pictures, seed=seed)
            right = probabilities.argmax(axis=1) == labels
            errors.append(expected_calibration_error(right, probabilities.max(axis=1)))
        by_chance.append(ece_by_chance(probabilities.max(axis=1)).value)
        assert np.mean(errors) == pytest.approx(by_chance[-1], rel=0.1)
    assert by_chance[1] < 0.4 * by_chance[0]
