"""What an interval is, and when none is given; how often it holds the truth is tested by draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bench.statistics.answers import Answers, Counts, Floats
from bench.statistics.intervals import (
    Metric,
    Spread,
    _Influences,
    balanced_accuracy,
    bootstrap,
    bootstrap_change,
    cluster_spread,
    cross_validated,
    f1,
    fold_spread,
    log_loss,
    optimism,
    precision,
)


def answers_of(*right: str, size: int = 1) -> Answers:
    """A class for each text: a letter a group, `+` right and `-` wrong for all its pictures."""
    labels = [k for k, groups in enumerate(right) for _ in groups for _ in range(size)]
    marks = [mark for groups in right for mark in groups for _ in range(size)]
    columns = max(len(right), 2)
    named = [k if mark == "+" else (k + 1) % columns for k, mark in zip(labels, marks, strict=True)]
    groups = np.repeat(np.arange(len(labels) // size), size)
    return Answers.of(np.asarray(labels), np.eye(columns)[named], groups, "groups")


MIXED = answers_of("++-+++-+", "+-+-++-+", "++++-+++")


@pytest.mark.parametrize("metric", [balanced_accuracy, f1, log_loss])
def test_an_interval_lies_around_its_score_and_is_the_same_every_time(metric) -> None:
    estimate = bootstrap(MIXED, metric, resamples=999)
    assert estimate.interval is not None
    assert estimate.interval[0] < estimate.value < estimate.interval[1]
    assert bootstrap(MIXED, metric, resamples=999) == estimate


def test_more_pictures_of_the_same_groups_make_no_interval_narrower() -> None:
    marks = ("++-+++-+", "+-+-++-+")
    one, many = (bootstrap(answers_of(*marks, size=size), balanced_accuracy) for size in (1, 50))
    assert one == many


def test_more_groups_make_it_narrower() -> None:
    marks = ("++-+++-+", "+-+-++-+")
    few, many = (
        bootstrap(answers_of(*(mark * times for mark in marks)), balanced_accuracy).interval
        for times in (1, 9)
    )
    assert few is not None and many is not None
    assert many[1] - many[0] < 0.5 * (few[1] - few[0])


def test_near_the_ceiling_it_reaches_further_down_than_up_and_never_beyond_1() -> None:
    estimate = bootstrap(answers_of("+" * 19 + "-", "+" * 18 + "--"), balanced_accuracy)
    assert estimate.interval is not None
    low, high = estimate.interval
    assert estimate.value - low > high - estimate.value > 0
    assert high <= 1.0


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (answers_of("++++", "++++"), "all answers are right"),
        (answers_of("----", "----"), "all answers are wrong"),
        (answers_of("++++", "----"), "all groups score alike"),
        (answers_of("++-+-+", "+-"), "only 2 groups of a class were tested, 3 are needed"),
        (answers_of("+", "-"), "only 1 group of a class was tested, 3 are needed"),
    ],
)
def test_where_no_honest_interval_can_be_given_it_says_why(answers: Answers, said: str) -> None:
    estimate = bootstrap(answers, balanced_accuracy, resamples=199)
    assert estimate.interval is None
    assert said in (estimate.why_not or "")


def test_the_variance_of_single_pictures_is_the_binomial_one() -> None:
    """Recalls p over n pictures each: the sum of p (1 - p) / (n - 1) over K squared."""
    spread = cluster_spread(answers_of("+++-" * 5, "++--" * 5))
    assert spread.value == pytest.approx(0.625)
    assert spread.variance == pytest.approx((0.75 * 0.25 + 0.5 * 0.5) / 19 / 4)
    assert spread.freedom == pytest.approx(37.24, abs=0.01)  # 38, were both recalls alike


def test_the_bootstrap_agrees_with_the_variance_of_the_groups() -> None:
    answers = answers_of("+++-" * 10, "++--" * 10)
    estimate, spread = bootstrap(answers, balanced_accuracy), cluster_spread(answers).estimate
    assert estimate.interval == pytest.approx(spread.interval, abs=0.015)


def test_a_paired_variance_counts_only_what_differs() -> None:
    first, second = answers_of("+++-" * 5, "++--" * 5), answers_of("+++-" * 5, "++--" * 5)
    assert cluster_spread(first, against=second).variance == 0.0
    worse = answers_of("+++-" * 4 + "--+-", "++--" * 5)
    difference = cluster_spread(first, against=worse)
    assert difference.value == pytest.approx(2 / 20 / 2)
    assert difference.variance < cluster_spread(first).variance


def few_wrong(groups: int, wrong: int) -> Answers:
    return answers_of("+" * (groups - wrong) + "-" * wrong)


@pytest.mark.parametrize(
    ("answers", "least", "most"),
    [
        (few_wrong(60, 20), 40, 60),  # as good as all groups of a class
        (few_wrong(60, 3), 5, 9),  # three mistakes say little of how mistakes vary
        (answers_of("+-" * 20, "+" * 19 + "-" * 21, "+++-"), 4, 6),  # most of it from four groups
    ],
)
def test_the_degrees_of_freedom_are_those_of_the_groups_that_make_the_variance(
    answers: Answers, least: float, most: float
) -> None:
    assert least <= cluster_spread(answers).freedom <= most


def test_long_tails_take_oneills_degrees_of_freedom() -> None:
    """2 n / (kurtosis - (n - 3) / (n - 1)), which is n - 1 for a normal distribution's 3."""
    right = np.repeat([1.0, 0.0], [54, 6])
    kurtosis = float(stats.kurtosis(right, fisher=False))
    expected = 2 * 60 / (kurtosis - 57 / 59)
    assert cluster_spread(few_wrong(60, 6)).freedom == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("metric", [balanced_accuracy, f1, log_loss], ids=["recall", "f1", "loss"])
def test_the_variance_is_the_jackknifes_and_the_interval_as_wide_as_that(metric: Metric) -> None:
    """Leaving out one of many groups moves a score by what its derivative says."""
    answers = answers_of("+++-" * 40, "++--" * 40)
    left_out = metric.of(answers.by_group.weighted(1 - np.eye(answers.groups)))
    within_classes = left_out.reshape(2, -1).var(axis=1).mean()
    variance = answers.groups * within_classes  # of the jackknife, nearly
    influences = _Influences.of(lambda sums: metric.of(sums(answers.by_group)), answers.strata)
    assert influences.spread.variance == pytest.approx(variance, rel=0.05)
    interval = bootstrap(answers, metric).interval
    assert interval is not None
    assert (interval[1] - interval[0]) / 2 == pytest.approx(1.96 * variance**0.5, rel=0.05)


@pytest.mark.parametrize(("share", "trials"), [(0.5, 10), (0.9, 20), (0.98, 100)])
def test_a_share_of_few_groups_has_wilsons_interval(share: float, trials: int) -> None:
    spread = Spread(value=share, variance=share * (1 - share) / trials, freedom=np.inf)
    expected = stats.binomtest(round(share * trials), trials).proportion_ci(method="wilson")
    assert spread.wilsons_interval() == pytest.approx((expected.low, expected.high))


def test_a_share_at_its_end_that_varies_all_the_same_says_nothing() -> None:
    at_the_end = Spread(value=1.0, variance=0.01, freedom=5.0)
    assert at_the_end.wilsons_interval() == pytest.approx((0.0, 1.0))


@pytest.mark.parametrize(("times", "said"), [(1, "only 1 group"), (0, "no group")])
def test_precision_has_no_interval_where_a_class_is_hardly_ever_named(
    times: int, said: str
) -> None:
    """Class 0 is named rightly, if at all, and else mistaken for a class that is never true."""
    labels = np.repeat([0, 1], 5)
    named = np.asarray([0] * times + [2] * (5 - times) + [1, 1, 1, 1, 2])
    answers = Answers.of(labels, np.eye(3)[named], np.arange(10), "groups")
    estimate = bootstrap(answers, precision)
    assert (estimate.value, estimate.interval) == ((times + 1) / 2, None)
    assert estimate.why_not == f"a class is predicted in {said}, 3 are needed"
    assert bootstrap(answers, balanced_accuracy).interval is not None


@pytest.mark.parametrize("metric", [balanced_accuracy, precision, f1])
def test_few_groups_give_a_share_an_interval_within_0_and_1(metric: Metric) -> None:
    estimate = bootstrap(answers_of("+++", "+++-"), metric)
    assert estimate.interval is not None
    assert 0.0 < estimate.interval[0] < estimate.value < estimate.interval[1] < 1.0


def test_few_groups_give_a_loss_none_and_say_why() -> None:
    few, other = answers_of("+++", "++-"), answers_of("+++", "+-+")
    for estimate in (bootstrap(few, log_loss), bootstrap_change(few, other, log_loss)):
        assert estimate.interval is None
        assert "few of the 6 groups make most of it" in (estimate.why_not or "")


@pytest.mark.parametrize(("is_share", "said"), [(True, None), (False, "one side of the score")])
def test_a_score_beyond_all_resamples_has_wilsons_interval_or_says_why(
    is_share: bool, said: str | None
) -> None:
    """Such as macro F1 of thousands of classes could be. Here every other mix of groups is worse:
    their sizes are such that only the whole set has so many pictures of each class.
    """
    sizes = np.tile(1000 + 2 ** np.arange(10), 2)
    labels = np.repeat([0, 1], sizes.reshape(2, 10).sum(axis=1))
    groups = np.repeat(np.arange(20), sizes)
    named = np.where(groups % 3 == 0, 1 - labels, labels)
    answers = Answers.of(labels, np.eye(2)[named], groups, "groups")

    def peaked(sums: Counts) -> Floats:
        is_another = (np.abs(sums.true - answers.whole.true) > 0.5).any(axis=-1)
        return sums.balanced_accuracy - is_another

    estimate = bootstrap(answers, Metric(peaked, is_share=is_share), resamples=199)

    wilson = cluster_spread(answers).wilsons_interval()
    assert estimate.interval == (pytest.approx(wilson) if is_share else None)
    assert estimate.why_not is said if said is None else said in (estimate.why_not or "")


def test_where_classes_share_groups_these_are_resampled_over_all_classes() -> None:
    """Ten patients with pictures of both classes: more groups than classes is not needed."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 12)
    labels = np.tile([0, 1], 60)
    named = np.where(rng.random(120) < 0.8, labels, 1 - labels)
    answers = Answers.of(labels, np.eye(2)[named], groups, "groups")
    assert set(answers.strata.tolist()) == {0}
    assert cluster_spread(answers).freedom <= 9
    assert bootstrap(answers, balanced_accuracy).interval is not None


# --- folds ----------------------------------------------------------------------------------


def test_the_corrected_variance_is_nadeau_and_bengios() -> None:
    spread = fold_spread(0.8, 0.05, folds=5)
    assert spread.variance == pytest.approx(0.05**2 * (1 / 5 + 1 / 4))
    interval = cross_validated(0.8, 0.05, folds=5).interval
    half = stats.t.ppf(0.975, 4) * 0.05 * (0.2 + 0.25) ** 0.5
    assert interval == pytest.approx((0.8 - half, 0.8 + half))


def test_scores_end_at_1() -> None:
    assert cross_validated(0.95, 0.1, folds=3).interval == (pytest.approx(0.5572, abs=1e-3), 1.0)


@pytest.mark.parametrize(
    ("sd", "said"), [(None, "one fold has no spread"), (0.0, "all folds score alike")]
)
def test_folds_without_spread_have_no_interval(sd: float | None, said: str) -> None:
    estimate = cross_validated(0.8, sd, folds=3)
    assert (estimate.interval, estimate.why_not) == (None, said)


def test_the_optimism_is_as_unsure_as_both_scores_together() -> None:
    estimate = optimism(0.8, 0.03, 5, MIXED)
    outer = cluster_spread(MIXED)
    assert estimate.value == pytest.approx(0.8 - outer.value)
    assert estimate.interval is not None
    alone = Spread(value=0.0, variance=outer.variance, freedom=outer.freedom).estimate.interval
    assert alone is not None
    assert estimate.interval[1] - estimate.interval[0] > alone[1] - alone[0]


@pytest.mark.parametrize(
    ("sd", "answers", "said"),
    [
        (None, MIXED, "one fold"),
        (0.1, answers_of("+-", "-+"), "only 2 groups of a class"),
        (0.0, answers_of("++++", "++++"), "nothing varies"),
    ],
)
def test_an_optimism_that_nothing_tells_of_has_no_interval(
    sd: float | None, answers: Answers, said: str
) -> None:
    estimate = optimism(0.8, sd, 3, answers)
    assert estimate.interval is None
    assert said in (estimate.why_not or "")


# --- the stated rate ------------------------------------------------------------------------


def test_over_correlated_folds_the_corrected_interval_holds_and_the_plain_one_does_not() -> None:
    """Under the assumption of the correction: fold scores correlated by 1 / folds."""
    folds, draws = 5, 2000
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(draws, 1)), rng.normal(size=(draws, folds))
    scores = (common + (folds - 1) ** 0.5 * own) / folds**0.5  # correlation 1 / folds
    corrected, plain = 0, 0
    for mean, sd in zip(scores.mean(axis=1), scores.std(axis=1, ddof=1), strict=True):
        spread = fold_spread(mean, sd, folds)
        half = stats.t.ppf(0.975, spread.freedom)
        corrected += abs(mean) <= half * spread.variance**0.5
        plain += abs(mean) <= half * sd / folds**0.5
    assert 0.93 <= corrected / draws <= 0.97
    assert plain / draws < 0.90
