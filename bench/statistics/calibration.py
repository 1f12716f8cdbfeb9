"""Temperature scaling, and what it does to probabilities: see docs/calibration.md.

Shapes: N pictures, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from bench.records import CalibrationEffect, CalibrationScores, Estimate
from bench.statistics.answers import Answers, Floats, Integers, Unit
from bench.statistics.intervals import LEVEL, bootstrap, bootstrap_change, brier, log_loss

CONFIDENCE_BINS = 15  # of equal width, as in Guo et al. (2017)

Flags = npt.NDArray[np.bool_]

# A fit at either end says that the predictions do not determine a temperature.
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0
_NEAR_AN_END = 1.01
_CHANCE_DRAWS = 1000
# Probabilities are kept in 32 bits; less than the smallest of them was rounded to nothing.
_LEAST = float(np.finfo(np.float32).smallest_subnormal)


def fit_temperature(labels_n: Integers, probabilities_nk: Floats) -> float:
    """Return the T that minimises the log-loss of softmax(logits / T).

    Temperature scaling (Guo et al., 2017, "On calibration of modern neural networks", ICML).
    Logarithms of probabilities are logits but for a constant in each row, which no softmax sees.
    The loss is convex in 1 / T, so it has one minimum between the limits.
    """
    logits_nk = _logits(probabilities_nk)
    rows = np.arange(len(labels_n))

    def loss(log_temperature: float) -> float:
        scaled_nk = logits_nk / np.exp(log_temperature)
        return float(-log_softmax(scaled_nk, axis=1)[rows, labels_n].mean())

    limits = (np.log(LEAST_TEMPERATURE), np.log(MOST_TEMPERATURE))
    found = minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def is_determined(labels_n: Integers, probabilities_nk: Floats, temperature: float) -> bool:
    """Whether a fitted temperature is truly the best one.

    Answers that are all right would be made ever surer; a fit at a limit would go beyond it.
    """
    any_wrong = bool((probabilities_nk.argmax(axis=1) != labels_n).any())
    low, high = LEAST_TEMPERATURE * _NEAR_AN_END, MOST_TEMPERATURE / _NEAR_AN_END
    return any_wrong and low < temperature < high


def with_temperature(probabilities_nk: Floats, temperature: float) -> Floats:
    """Divide the logits behind some probabilities by a temperature; 1 / T takes it out again."""
    if temperature == 1.0:
        return probabilities_nk  # to the last bit
    scaled: Floats = softmax(_logits(probabilities_nk) / temperature, axis=1)
    return scaled


def effect_of(
    labels_n: Integers, before_nk: Floats, after_nk: Floats, groups_n: Integers, unit: Unit
) -> CalibrationEffect:
    """Score the probabilities of the same pictures before and after, with paired changes.

    groups_n numbers what is resampled as a whole (`bench.statistics.answers.groups_of`).
    """
    before = Answers.of(labels_n, before_nk, groups_n, unit)
    after = Answers.of(labels_n, after_nk, groups_n, unit)
    return CalibrationEffect(
        pictures=len(labels_n),
        before=_scores(before, labels_n, before_nk),
        after=_scores(after, labels_n, after_nk),
        log_loss_change=bootstrap_change(before, after, log_loss),
        brier_change=bootstrap_change(before, after, brier),
    )


def expected_calibration_error(right_n: Flags, confidences_n: Floats) -> float:
    """The mean over the pictures of |accuracy - confidence| in their bin, 0..1.

    right_n tells which answers are right, confidences_n the probabilities of the predicted
    classes, which are binned; an edge belongs to the bin below it (Naeini, Cooper and Hauskrecht,
    2015, "Obtaining well calibrated probabilities using Bayesian binning", AAAI, of the predicted
    class as in Guo et al., 2017).
    """
    gaps_b = np.bincount(_bins(confidences_n), weights=right_n - confidences_n)
    return float(np.abs(gaps_b).sum() / len(confidences_n))


def ece_by_chance(confidences_n: Floats) -> Estimate:
    """The expected calibration error if these probabilities were right: mean, and 95 % range.

    Answers are drawn right as often as their confidence says (consistency resampling; Bröcker and
    Smith, 2007, "Increasing the reliability of reliability diagrams", Weather and Forecasting 22),
    each picture on its own: pictures that are right or wrong together would show more. The draws
    are the same every time.
    """
    rng = np.random.default_rng(0)
    errors = [
        expected_calibration_error(rng.random(len(confidences_n)) < confidences_n, confidences_n)
        for _ in range(_CHANCE_DRAWS)
    ]
    low, high = map(float, np.quantile(errors, (0.5 - LEVEL / 2, 0.5 + LEVEL / 2)))
    return Estimate(value=float(np.mean(errors)), interval=(low, high))


def _scores(answers: Answers, labels_n: Integers, probabilities_nk: Floats) -> CalibrationScores:
    right_n = probabilities_nk.argmax(axis=1) == labels_n
    confidences_n = probabilities_nk.max(axis=1)
    return CalibrationScores(
        log_loss=bootstrap(answers, log_loss),
        brier=bootstrap(answers, brier),
        ece=expected_calibration_error(right_n, confidences_n),
        ece_by_chance=ece_by_chance(confidences_n),
    )


def _bins(confidences_n: Floats) -> Integers:
    edges = np.linspace(0.0, 1.0, CONFIDENCE_BINS + 1)
    return np.asarray(np.searchsorted(edges[1:-1], confidences_n), dtype=np.int64)


def _logits(probabilities_nk: Floats) -> Floats:
    logits: Floats = np.log(np.maximum(probabilities_nk.astype(np.float64), _LEAST))
    return logits
