"""Better, worse, equal in practice or undecided: by whole groups, and never by luck alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bench.records import Estimate
from bench.statistics.answers import Answers
from bench.statistics.comparisons import (
    ROPE,
    Comparison,
    Verdict,
    on_folds,
    on_other_pictures,
    on_test_pictures,
)


def answers_of(right_ng: np.ndarray) -> Answers:
    """Two classes of alternating groups; (N, G) says which pictures of each group are right."""
    pictures, groups = right_ng.shape
    labels = np.tile(np.arange(groups) % 2, pictures)
    named = np.where(right_ng.ravel(), labels, 1 - labels)
    return Answers.of(labels, np.eye(2)[named], np.tile(np.arange(groups), pictures), "groups")


def drawn(accuracy: float, *, groups: int, pictures: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((pictures, groups)) < accuracy


@pytest.mark.parametrize(
    ("first", "second", "groups", "verdict"),
    [
        (0.9, 0.5, 100, "better"),
        (0.5, 0.9, 100, "worse"),
        (0.7, 0.7, 20, "undecided"),
        (0.70, 0.70, 40_000, "equal in practice"),
    ],
)
def test_the_word_follows_from_how_much_the_pictures_tell(
    first: float, second: float, groups: int, verdict: Verdict
) -> None:
    comparison = on_test_pictures(
        answers_of(drawn(first, groups=groups, pictures=1, seed=1)),
        answers_of(drawn(second, groups=groups, pictures=1, seed=2)),
    )
    assert comparison.verdict == verdict
    assert sum(comparison.probabilities or ()) == pytest.approx(1.0)


def test_a_hundred_pictures_of_one_group_count_once() -> None:
    one = tuple(
        np.asarray([[mark == "+" for mark in marks]]) for marks in ("++++++++-+++", "-+-+++++++++")
    )
    single = on_test_pictures(*(answers_of(right) for right in one))
    repeated = on_test_pictures(*(answers_of(np.repeat(right, 100, axis=0)) for right in one))
    assert repeated.difference.value == pytest.approx(single.difference.value)
    assert repeated.difference.interval == pytest.approx(single.difference.interval)
    pretended = on_test_pictures(*(answers_of(np.tile(right, (1, 100))) for right in one))
    assert (single.verdict, pretended.verdict) == ("undecided", "better")


def test_beyond_chance_means_that_the_interval_excludes_0() -> None:
    def with_interval(*bounds: float) -> Comparison:
        low, high = bounds
        return Comparison(
            difference=Estimate(value=(low + high) / 2, interval=(low, high)), probabilities=None
        )

    assert with_interval(0.001, 0.2).beyond_chance
    assert with_interval(-0.2, -0.001).beyond_chance
    assert not with_interval(-0.001, 0.2).beyond_chance


@pytest.mark.parametrize(
    ("groups", "verdict"), [(40, "undecided"), (366, "undecided"), (368, "equal in practice")]
)
def test_models_that_never_differ_are_equal_only_once_enough_groups_said_so(
    groups: int, verdict: Verdict
) -> None:
    answers = answers_of(drawn(0.7, groups=groups, pictures=2, seed=5))
    comparison = on_test_pictures(answers, answers)
    assert comparison.difference.value == 0.0
    assert comparison.verdict == verdict
    assert not comparison.beyond_chance


@pytest.mark.parametrize(("first", "second", "verdict"), [(1, 0, "better"), (0, 1, "worse")])
def test_models_that_always_differ_are_told_apart(
    first: int, second: int, verdict: Verdict
) -> None:
    right = [answers_of(np.full((1, 40), bool(value))) for value in (first, second)]
    assert on_test_pictures(*right).verdict == verdict


def test_too_few_groups_decide_nothing() -> None:
    right, wrong = (answers_of(np.full((9, 4), value)) for value in (True, False))
    comparison = on_test_pictures(right, wrong)
    assert (comparison.verdict, comparison.difference.interval) == ("undecided", None)
    assert "only 2 groups of a class" in (comparison.difference.why_not or "")


def test_answers_to_other_pictures_are_not_compared() -> None:
    few, many = (answers_of(np.ones((1, groups), dtype=bool)) for groups in (10, 12))
    with pytest.raises(ValueError, match="different pictures"):
        on_test_pictures(few, many)


# --- two test sets --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [((0.9, 0.5), "better"), ((0.5, 0.9), "worse"), ((0.7, 0.7), "undecided")],
)
def test_test_sets_of_different_pictures_are_compared_unpaired(
    accuracies: tuple[float, float], verdict: Verdict
) -> None:
    first, second = (
        answers_of(drawn(accuracy, groups=groups, pictures=1, seed=seed))
        for seed, (accuracy, groups) in enumerate(zip(accuracies, (100, 120), strict=True))
    )
    assert on_other_pictures(first, second).verdict == verdict


def test_the_unpaired_interval_is_welchs() -> None:
    """Of one class and a picture a group, the variance over groups is the ordinary one.

    Marks as even as these have no long tail, so that no degree of freedom is lost to one.
    """
    marks = [np.arange(size) % 3 > 0 for size in (30, 12)]
    marks[1][:3] = False
    first, second = (
        Answers.of(
            np.zeros(len(right), dtype=int),
            np.eye(2)[np.where(right, 0, 1)],
            np.arange(len(right)),
            "pictures",
        )
        for right in marks
    )
    difference = on_other_pictures(first, second).difference
    welch = stats.ttest_ind(*(right.astype(float) for right in marks), equal_var=False)
    assert difference.value == pytest.approx(marks[0].mean() - marks[1].mean())
    assert difference.interval == pytest.approx(tuple(welch.confidence_interval(0.95)))


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ((2, 40), "only 1 group of a class"),
        ((4, 40), "only 2 groups of a class"),
        ((40, 40), "nothing varies"),
    ],
)
def test_test_sets_that_say_too_little_decide_nothing(groups: tuple[int, int], said: str) -> None:
    first, second = (answers_of(np.full((1, size), True)) for size in groups)
    for comparison in (on_other_pictures(first, second), on_other_pictures(second, first)):
        assert (comparison.verdict, comparison.difference.interval) == ("undecided", None)
        assert said in (comparison.difference.why_not or "")


# --- folds ----------------------------------------------------------------------------------

BASE = (0.70, 0.74, 0.69, 0.72, 0.71)


@pytest.mark.parametrize(
    ("shift", "noise", "verdict"),
    [
        (0.10, 0.01, "better"),
        (-0.10, 0.01, "worse"),
        (0.0, 0.001, "equal in practice"),
        (0.02, 0.04, "undecided"),
    ],
)
def test_trials_are_compared_on_the_same_folds(
    shift: float, noise: float, verdict: Verdict
) -> None:
    wobble = (1.0, -1.0, 0.5, -0.5, 0.0)
    trial = [base + shift + noise * by for base, by in zip(BASE, wobble, strict=True)]
    assert on_folds(trial, BASE).verdict == verdict


def test_the_probabilities_are_those_of_the_corrected_t() -> None:
    trial = (0.75, 0.75, 0.73, 0.74, 0.75)
    differences = np.subtract(trial, BASE)
    scale = differences.std(ddof=1) * (1 / 5 + 1 / 4) ** 0.5
    worse, equal, better = on_folds(trial, BASE).probabilities or ()
    posterior = stats.t(4, loc=differences.mean(), scale=scale)
    assert worse == pytest.approx(posterior.cdf(-ROPE))
    assert better == pytest.approx(posterior.sf(ROPE))
    assert equal == pytest.approx(1 - worse - better)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [((0.7,), (0.5,), "one fold has no spread"), ((0.7, 0.8), (0.6, 0.7), "nothing varies")],
)
def test_folds_that_do_not_vary_decide_nothing(
    first: tuple[float, ...], second: tuple[float, ...], said: str
) -> None:
    comparison = on_folds(first, second)
    assert comparison.verdict == "undecided"
    assert comparison.difference.why_not == said


def test_trials_of_different_folds_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different folds"):
        on_folds((0.7, 0.8), (0.7, 0.8, 0.9))
