"""Intervals hold the truth at their stated rate, and those of single pictures do not."""

from __future__ import annotations

import numpy as np
import pytest
from coverage import (
    Scenario,
    as_pictures,
    coverage,
    cross_validations,
    draws,
    fold_row,
    mean_accuracy,
    paired_draws,
    paired_row,
    score_row,
)

from bench.statistics.comparisons import on_test_pictures
from bench.statistics.intervals import balanced_accuracy, bootstrap, cluster_spread

DRAWS = 2000
CLUSTERED = Scenario(classes=3, groups=20, pictures=5, accuracy=0.7, correlation=0.3)


@pytest.mark.slow
def test_the_bootstrap_over_groups_holds_the_truth_at_its_rate_and_over_pictures_it_does_not() -> (
    None
):
    by_groups, by_pictures = [], []
    for answers in draws(CLUSTERED, DRAWS):
        alone = as_pictures(CLUSTERED, answers)
        by_groups.append(bootstrap(answers, balanced_accuracy, resamples=999).interval)
        by_pictures.append(cluster_spread(alone).estimate.interval)
    groups, pictures = (coverage(found, 0.7) for found in (by_groups, by_pictures))
    assert groups.given == 1.0
    assert 0.93 <= groups.held <= 0.97
    assert pictures.held < 0.85


def test_the_variance_over_groups_holds_the_truth_at_its_rate_and_over_pictures_it_does_not() -> (
    None
):
    by_groups, by_pictures = [], []
    for answers in draws(CLUSTERED, DRAWS):
        by_groups.append(cluster_spread(answers).estimate.interval)
        by_pictures.append(cluster_spread(as_pictures(CLUSTERED, answers)).estimate.interval)
    assert 0.93 <= coverage(by_groups, 0.7).held <= 0.97
    assert coverage(by_pictures, 0.7).held < 0.85


@pytest.mark.parametrize("gain", [0.0, 0.15])
def test_the_paired_difference_is_held_at_its_rate(gain: float) -> None:
    intervals = [
        on_test_pictures(first, second).difference.interval
        for first, second in paired_draws(CLUSTERED, gain, DRAWS)
    ]
    assert 0.93 <= coverage(intervals, gain).held <= 0.97


def test_equal_models_are_hardly_ever_called_better_or_worse() -> None:
    verdicts = [
        on_test_pictures(first, second).verdict
        for first, second in paired_draws(CLUSTERED, 0.0, DRAWS)
    ]
    assert sum(verdict in ("better", "worse") for verdict in verdicts) / DRAWS < 0.1
    assert "equal in practice" not in verdicts


# --- the simulation itself ------------------------------------------------------------------


def test_the_drawn_groups_have_the_accuracy_and_the_correlation_that_is_told() -> None:
    scenario = Scenario(classes=2, groups=20_000, pictures=5, accuracy=0.7, correlation=0.3)
    rng = np.random.default_rng(0)
    right = scenario.difficulties(rng, scenario.accuracy)
    assert right.mean() == pytest.approx(0.7, abs=0.01)
    # Of a Beta distribution the variance is the correlation times p (1 - p).
    assert right.var() / 0.21 == pytest.approx(0.3, abs=0.01)


def test_paired_models_differ_by_the_gain_that_is_told() -> None:
    scenario = Scenario(classes=2, groups=5000, pictures=5, accuracy=0.8, correlation=0.3)
    ((first, second),) = paired_draws(scenario, 0.15, 1)
    difference = first.whole.balanced_accuracy - second.whole.balanced_accuracy
    assert difference == pytest.approx(0.15, abs=0.01)


def test_the_truth_of_the_folds_is_their_mean() -> None:
    scores = np.concatenate(list(cross_validations(60, 5, 400)))
    assert scores.mean() == pytest.approx(mean_accuracy(48, trainings=4000), abs=0.01)


def test_rows_are_as_wide_as_their_tables() -> None:
    assert score_row(CLUSTERED, 2).count("|") == 10
    assert paired_row(CLUSTERED, 0.0, 2).count("|") == 12
    assert fold_row(20, 4, 2).count("|") == 7
