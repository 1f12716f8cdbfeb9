"""Scores are those of their definitions, and of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, classification_report, log_loss

from bench.metrics import cross_entropy, score, score_epoch

NAMES = ("a", "b", "c", "d")


def random_predictions(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) that hold every class, and softmax probabilities (N, K) that lean to them."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(4), rng.integers(0, 4, count - 4)])
    logits = rng.normal(size=(count, 4)) + 1.2 * np.eye(4)[labels]
    exponentials = np.exp(logits)
    return labels, (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


def certain(*predicted: int) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[list(predicted)]


@pytest.mark.parametrize("seed", range(10))
def test_scores_are_scikit_learns(seed):
    labels, probabilities = random_predictions(seed)
    scores = score(labels, probabilities, NAMES)
    predicted = probabilities.argmax(axis=1)
    report = classification_report(
        labels, predicted, target_names=NAMES, output_dict=True, zero_division=0.0
    )
    assert scores.accuracy == pytest.approx(report["accuracy"])
    assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    macro = report["macro avg"]
    assert scores.precision == pytest.approx(macro["precision"])
    assert scores.recall == pytest.approx(macro["recall"])
    assert scores.f1 == pytest.approx(macro["f1-score"])
    assert scores.log_loss == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    for row in scores.per_class:
        expected = report[row.name]
        assert row.precision == pytest.approx(expected["precision"])
        assert row.recall == pytest.approx(expected["recall"])
        assert row.f1 == pytest.approx(expected["f1-score"])
        assert row.support == expected["support"]


@pytest.mark.parametrize("seed", range(5))
def test_the_confusion_counts_pictures_by_true_and_predicted_class(seed):
    labels, probabilities = random_predictions(seed)
    predicted = probabilities.argmax(axis=1)
    confusion = score(labels, probabilities, NAMES).confusion
    for true in range(4):
        for guess in range(4):
            assert confusion[true][guess] == int(((labels == true) & (predicted == guess)).sum())


def test_a_class_that_is_never_predicted_has_precision_and_f1_of_0():
    scores = score(np.array([0, 1, 2, 3]), certain(0, 1, 2, 2), NAMES)
    last = scores.per_class[3]
    assert (last.precision, last.recall, last.f1, last.support) == (0, 0, 0, 1)
    assert scores.balanced_accuracy == 0.75
    assert scores.precision == pytest.approx((1 + 1 + 0.5 + 0) / 4)


def test_perfect_predictions_score_1():
    scores = score(np.array([0, 1, 2, 3, 3]), certain(0, 1, 2, 3, 3), NAMES)
    shares = (scores.accuracy, scores.balanced_accuracy, scores.precision, scores.f1)
    assert shares == (1, 1, 1, 1)
    assert scores.log_loss == pytest.approx(0, abs=1e-9)
    assert scores.confusion == ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 2))


def test_the_worst_predictions_score_0_with_a_finite_loss():
    scores = score(np.array([0, 1, 2, 3]), certain(1, 2, 3, 0), NAMES)
    shares = (scores.accuracy, scores.balanced_accuracy, scores.precision, scores.recall)
    assert (*shares, scores.f1) == (0, 0, 0, 0, 0)
    assert 10 < scores.log_loss < 1000


def test_balanced_accuracy_weighs_classes_and_accuracy_pictures():
    scores = score(np.array([0] * 97 + [1, 2, 3]), certain(*[0] * 100), NAMES)
    assert scores.accuracy == pytest.approx(0.97)
    assert scores.balanced_accuracy == pytest.approx(0.25)


@pytest.mark.parametrize("seed", range(5))
def test_an_epoch_is_scored_as_the_test_set_is(seed):
    labels, probabilities = random_predictions(seed)
    epoch = score_epoch(labels, probabilities, fold=2, epoch=7, train_loss=0.5, seconds=3.0)
    whole = score(labels, probabilities, NAMES)
    assert (epoch.fold, epoch.epoch, epoch.train_loss, epoch.seconds) == (2, 7, 0.5, 3.0)
    assert epoch.balanced_accuracy == pytest.approx(whole.balanced_accuracy)
    assert epoch.recall == pytest.approx(whole.recall)
    assert epoch.precision == pytest.approx(whole.precision)
    assert epoch.f1 == pytest.approx(whole.f1)
    assert epoch.loss == pytest.approx(whole.log_loss)


def test_cross_entropy_is_the_mean_negative_log_likelihood_in_nats():
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75]], np.float32)
    expected = -(np.log(0.5) + np.log(0.25)) / 2
    assert cross_entropy(np.array([0, 0]), probabilities) == pytest.approx(expected)


def test_rows_that_do_not_quite_sum_to_1_are_normalised_and_left_as_they_are():
    probabilities = np.array([[0.5002, 0.5002], [0.2, 0.6]], np.float32)
    before = probabilities.copy()
    expected = -(np.log(0.5) + np.log(0.75)) / 2
    assert cross_entropy(np.array([0, 1]), probabilities) == pytest.approx(expected)
    assert np.array_equal(probabilities, before)
