"""Intervals hold the truth at their stated rate, and those of single pictures do not."""

from __future__ import annotations

import numpy as np
import pytest
from coverage import (
    EXTREMES,
    FOLDS,
    OTHERS,
    PAIRS,
    SCORES,
    Scenario,
    coverage,
    cross_validations,
    described,
    draws,
    fold_coverage,
    lines,
    mean_accuracy,
    paired_coverage,
    paired_draws,
    picture_coverage,
    score_coverage,
)

from bench.statistics.intervals import (
    Metric,
    balanced_accuracy,
    cluster_spread,
    f1,
    log_loss,
    precision,
)

DRAWS = 2000
CLUSTERED = SCORES[0]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCORES, ids=described)
def test_balanced_accuracy_is_held_at_its_rate(scenario: Scenario) -> None:
    found = score_coverage(scenario, balanced_accuracy, DRAWS)
    assert found.given > 0.98
    assert 0.93 <= found.held <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("scenario", OTHERS, ids=described)
@pytest.mark.parametrize("metric", [f1, precision, log_loss], ids=["f1", "precision", "log-loss"])
def test_other_scores_are_held_at_their_rate(scenario: Scenario, metric: Metric) -> None:
    assert 0.93 <= score_coverage(scenario, metric, DRAWS).held <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("scenario", EXTREMES, ids=described)
def test_next_to_no_mistakes_or_groups_make_them_cautious_at_most(scenario: Scenario) -> None:
    assert score_coverage(scenario, balanced_accuracy, DRAWS).held >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "gain"), PAIRS, ids=str)
def test_differences_of_models_are_held_at_their_rate(scenario: Scenario, gain: float) -> None:
    assert 0.93 <= paired_coverage(scenario, gain, DRAWS)[0].held <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("pictures", "folds"), FOLDS)
def test_the_mean_of_folds_is_held_at_least_at_its_rate(pictures: int, folds: int) -> None:
    corrected, _ = fold_coverage(pictures, folds, DRAWS)
    assert corrected.held >= 0.95


def test_pictures_taken_for_independent_hold_the_truth_far_too_seldom() -> None:
    by_groups = [cluster_spread(answers).estimate.interval for answers in draws(CLUSTERED, DRAWS)]
    assert 0.93 <= coverage(by_groups, CLUSTERED.accuracy).held <= 0.97
    assert picture_coverage(CLUSTERED, DRAWS).held < 0.85


def test_equal_models_are_hardly_ever_called_better_or_worse() -> None:
    _, verdicts = paired_coverage(CLUSTERED, 0.0, DRAWS)
    assert (verdicts["better"] + verdicts["worse"]) / DRAWS < 0.1
    assert not verdicts["equal in practice"]


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


def test_rows_are_as_wide_as_their_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {"SCORES": SCORES, "EXTREMES": EXTREMES, "OTHERS": OTHERS, "PAIRS": PAIRS}
    for name, some in (*cases.items(), ("FOLDS", FOLDS)):
        monkeypatch.setattr(f"coverage.{name}", some[:1])
    sections = "\n".join(lines(2)).split("\n## ")[1:]
    assert len(sections) == 5
    for section in sections:
        widths = {line.count("|") for line in section.split("\n") if line.startswith("|")}
        assert len(widths) == 1, section
