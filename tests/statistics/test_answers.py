"""Scores of group sums are those of the pictures; a group is what belongs together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.metrics import score
from bench.records import Dataset, StudyPlan
from bench.statistics.answers import Answers, Unit, groups_of

NAMES = ("a", "b", "c", "d")


def random_answers(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (N,) that hold every class, probabilities (N, K) and groups (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(4), rng.integers(0, 4, count - 4)])
    logits = rng.normal(size=(count, 4)) + 1.2 * np.eye(4)[labels]
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return labels, probabilities, rng.integers(0, 15, count) * 7


@pytest.mark.parametrize("seed", range(5))
def test_the_scores_of_all_groups_are_those_of_scikit_learn(seed: int) -> None:
    labels, probabilities, groups = random_answers(seed)
    expected = score(labels, probabilities.astype(np.float32), NAMES)
    whole = Answers.of(labels, probabilities, groups, "groups").whole
    assert whole.balanced_accuracy == pytest.approx(expected.balanced_accuracy)
    assert whole.precision == pytest.approx(expected.precision)
    assert whole.f1 == pytest.approx(expected.f1)
    assert whole.log_loss == pytest.approx(expected.log_loss, rel=1e-5)


def test_a_group_taken_twice_weighs_as_its_pictures_given_twice() -> None:
    labels, probabilities, groups = random_answers(0)
    answers = Answers.of(labels, probabilities, groups, "groups")
    weights = np.ones(answers.groups)
    weights[0] = 2.0
    again = groups == groups.min()
    twice = Answers.of(
        np.concatenate([labels, labels[again]]),
        np.concatenate([probabilities, probabilities[again]]),
        np.concatenate([groups, groups[again]]),
        "groups",
    )
    weighted = answers.by_group.weighted(weights)
    for name in ("balanced_accuracy", "precision", "f1", "log_loss"):
        assert getattr(weighted, name) == pytest.approx(getattr(twice.whole, name))


def test_the_sums_with_one_group_nudged_are_those_of_its_weight() -> None:
    labels, probabilities, groups = random_answers(0)
    by_group = Answers.of(labels, probabilities, groups, "groups").by_group
    weights = np.ones((1, len(by_group.true)))
    weights[0, 3] = 1.1
    nudged, weighted = by_group.nudged(0.1), by_group.weighted(weights)
    for name in ("right", "true", "predicted", "losses", "briers"):
        assert getattr(nudged, name)[3] == pytest.approx(getattr(weighted, name)[0])


@pytest.mark.parametrize(
    ("labels", "groups", "strata"),
    [
        # Groups of one class each are resampled within their class.
        ([0, 0, 1, 1, 2], [0, 1, 2, 3, 4], [0, 0, 1, 1, 2]),
        # Group 1 holds pictures of both classes, which are resampled together then.
        ([0, 0, 1, 1, 2], [0, 1, 1, 3, 4], [0, 0, 0, 1]),
        # Classes are tied in a chain.
        ([0, 1, 1, 2, 2], [0, 0, 1, 1, 2], [0, 0, 0]),
    ],
)
def test_classes_that_share_a_group_are_resampled_together(
    labels: list[int], groups: list[int], strata: list[int]
) -> None:
    answers = Answers.of(np.asarray(labels), np.eye(3)[labels], np.asarray(groups), "groups")
    assert answers.strata.tolist() == strata


def test_a_class_that_a_resample_misses_is_left_out_of_the_mean() -> None:
    labels, named = np.asarray([0, 0, 1]), np.asarray([0, 1, 1])
    answers = Answers.of(labels, np.eye(2)[named], np.asarray([0, 1, 2]), "pictures")
    without_the_second_class = np.asarray([1.0, 1.0, 0.0])
    assert answers.whole.balanced_accuracy == 0.75
    assert answers.by_group.weighted(without_the_second_class).balanced_accuracy == 0.5


def test_the_answers_to_one_class_have_its_recall_and_its_groups() -> None:
    labels, probabilities, groups = random_answers(1)
    answers = Answers.of(labels, probabilities, groups, "groups")
    expected = score(labels, probabilities.astype(np.float32), NAMES)
    for index, row in enumerate(expected.per_class):
        one = answers.of_class(index)
        assert one.whole.balanced_accuracy == pytest.approx(row.recall)
        assert one.groups == len(set(groups[labels == index].tolist()))
        assert set(one.strata.tolist()) == {0}


def with_pictures(plan: StudyPlan, groups: tuple[str | None, ...], files: str) -> Dataset:
    pictures = tuple(
        replace(picture, group=group, sha256=file)
        for picture, group, file in zip(plan.dataset.pictures, groups, files, strict=False)
    )
    return replace(plan.dataset, pictures=pictures)


@pytest.mark.parametrize(
    ("groups", "files", "numbers", "unit"),
    [
        (("x", "x", "y", "y"), "abcd", [0, 0, 1, 1], "groups"),
        (("x", None, "x", None), "abcd", [0, 1, 0, 2], "groups"),
        ((None, None, None, None), "abcd", [0, 1, 2, 3], "pictures"),
        # Copies of one file are one observation, grouped or not.
        ((None, None, None, None), "abab", [0, 1, 0, 1], "pictures"),
    ],
)
def test_what_is_resampled_is_a_group_or_a_picture_without_one(
    plan: StudyPlan, groups: tuple[str | None, ...], files: str, numbers: list[int], unit: Unit
) -> None:
    dataset = with_pictures(plan, groups, files)
    found, kind = groups_of(dataset, range(4))
    assert (found.tolist(), kind) == (numbers, unit)
