"""How often the intervals of `bench.statistics` hold the truth, over simulated test sets and folds.

    python benchmarks/coverage.py --out benchmarks/results/coverage.md

A test set is drawn of classes whose groups (recordings, patients) differ in difficulty: the
probability of a right answer is Beta distributed over groups, with the intra-class correlation
that stands in the table, and every picture of a group is right with its group's probability. The
truth is the mean of that distribution. Folds are real ones: a nearest-mean classifier is trained
and validated on Gaussian data by K-fold cross-validation, and the truth is its mean accuracy on
fresh data over all draws of as many training pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.statistics.answers import Answers
from bench.statistics.comparisons import on_test_pictures
from bench.statistics.intervals import (
    Spread,
    balanced_accuracy,
    bootstrap,
    cluster_spread,
    fold_spread,
)

Generator = np.random.Generator
Floats = npt.NDArray[np.float64]
RESAMPLES = 999


@dataclass(frozen=True)
class Scenario:
    """Test sets of `classes` classes with `groups` groups each, of 1 to 2 * `pictures` - 1."""

    classes: int
    groups: int
    pictures: int
    accuracy: float
    correlation: float

    def sizes(self, rng: Generator) -> npt.NDArray[np.int64]:
        return rng.integers(1, 2 * self.pictures, self.classes * self.groups)

    def difficulties(self, rng: Generator, accuracy: float) -> Floats:
        """(G,) probabilities of a right answer."""
        if self.correlation == 0.0:
            return np.full(self.classes * self.groups, accuracy)
        strength = 1 / self.correlation - 1
        shape = self.classes * self.groups
        return rng.beta(accuracy * strength, (1 - accuracy) * strength, shape)

    def answers(self, rng: Generator, sizes: npt.NDArray[np.int64], right: Floats) -> Answers:
        """Answers drawn from each group's probability; a wrong one names the next class."""
        labels = np.repeat(np.repeat(np.arange(self.classes), self.groups), sizes)
        groups = np.repeat(np.arange(len(sizes)), sizes)
        is_right = rng.random(len(groups)) < right[groups]
        columns = max(self.classes, 2)  # a single class is mistaken for one that is never true
        named = np.where(is_right, labels, (labels + 1) % columns)
        return Answers.of(labels, np.eye(columns)[named], groups, "groups")


def as_pictures(scenario: Scenario, answers: Answers) -> Answers:
    """The same answers, every picture taken for independent of its group."""
    true = answers.whole.true.astype(int)
    right = answers.whole.right.astype(int)
    labels = np.repeat(np.arange(len(true)), true)
    is_right = np.concatenate([np.arange(n) < r for n, r in zip(true, right, strict=True)])
    columns = len(answers.whole.true)
    named = np.where(is_right, labels, (labels + 1) % columns)
    return Answers.of(labels, np.eye(columns)[named], np.arange(len(labels)), "pictures")


def draws(scenario: Scenario, count: int) -> Iterator[Answers]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        right = scenario.difficulties(rng, scenario.accuracy)
        yield scenario.answers(rng, scenario.sizes(rng), right)


def paired_draws(scenario: Scenario, gain: float, count: int) -> Iterator[tuple[Answers, Answers]]:
    """Half of a group's difficulty is common to both models, half is each model's own."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        sizes = scenario.sizes(rng)
        common = scenario.difficulties(rng, scenario.accuracy - gain)
        first, second = (
            (common + scenario.difficulties(rng, scenario.accuracy - gain)) / 2 for _ in range(2)
        )
        # A share of the wrong answers of every group becomes right: the mean rises by `gain`.
        first = first + (1 - first) * gain / (1 - scenario.accuracy + gain)
        yield scenario.answers(rng, sizes, first), scenario.answers(rng, sizes, second)


# --- folds ----------------------------------------------------------------------------------

DIMENSIONS = 10
SHIFT = 0.5  # of each class's mean from the middle, along the first dimension


def cross_validations(pictures: int, folds: int, count: int) -> Iterator[Floats]:
    """Accuracies (K,) of a nearest-mean classifier on the folds of freshly drawn pictures."""
    rng = np.random.default_rng(0)
    sides = np.tile([-1.0, 1.0], pictures // 2)
    parts = np.array_split(rng.permutation(pictures), folds)
    for _ in range(count):
        points = rng.normal(size=(pictures, DIMENSIONS))
        points[:, 0] += SHIFT * sides
        scores = []
        for part in parts:
            kept = np.setdiff1d(np.arange(pictures), part)
            normal, middle = fitted(points[kept], sides[kept])
            scores.append(np.mean(np.sign((points[part] - middle) @ normal) == sides[part]))
        yield np.asarray(scores)


def fitted(points: Floats, sides: Floats) -> tuple[Floats, Floats]:
    right, left = points[sides > 0].mean(axis=0), points[sides < 0].mean(axis=0)
    return right - left, (right + left) / 2


def mean_accuracy(pictures: int, trainings: int = 20_000) -> float:
    """The mean accuracy on fresh data over trainings on as many pictures, in closed form."""
    rng = np.random.default_rng(1)
    centre = np.eye(DIMENSIONS)[0] * SHIFT
    scale = (2 / pictures) ** 0.5  # each class's mean is over half of the pictures
    rights = centre + scale * rng.normal(size=(trainings, DIMENSIONS))
    lefts = -centre + scale * rng.normal(size=(trainings, DIMENSIONS))
    normals, middles = rights - lefts, (rights + lefts) / 2
    lengths = np.linalg.norm(normals, axis=1)
    distances = [((side * centre - middles) * normals).sum(axis=1) * side for side in (1, -1)]
    return float(np.mean([stats.norm.cdf(d / lengths) for d in distances]))


# --- the three tables -----------------------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """Shares of draws: that an interval was given, and of these that it held the truth."""

    given: float
    held: float
    width: float


def coverage(intervals: list[tuple[float, float] | None], truth: float) -> Coverage:
    given = [interval for interval in intervals if interval is not None]
    held = [low <= truth <= high for low, high in given]
    return Coverage(
        given=len(given) / len(intervals),
        held=float(np.mean(held)) if held else float("nan"),
        width=float(np.mean([high - low for low, high in given])) if given else float("nan"),
    )


def score_row(scenario: Scenario, count: int) -> str:
    by_groups, by_pictures = [], []
    for answers in draws(scenario, count):
        by_groups.append(bootstrap(answers, balanced_accuracy, resamples=RESAMPLES).interval)
        by_pictures.append(cluster_spread(as_pictures(scenario, answers)).estimate.interval)
    groups, pictures = (coverage(found, scenario.accuracy) for found in (by_groups, by_pictures))
    return (
        f"| {described(scenario)} | {percent(groups.given)} | {percent(groups.held)} | "
        f"{100 * groups.width:.1f} | {percent(pictures.held)} |"
    )


def paired_row(scenario: Scenario, gain: float, count: int) -> str:
    """Two models that share the groups' difficulties; the second's accuracy is lower by `gain`."""
    intervals, verdicts = [], Counter[str]()
    for first, second in paired_draws(scenario, gain, count):
        comparison = on_test_pictures(first, second)
        intervals.append(comparison.difference.interval)
        verdicts[comparison.verdict] += 1
    found = coverage(intervals, gain)
    shares = " | ".join(
        percent(verdicts[verdict] / count)
        for verdict in ("better", "worse", "equal in practice", "undecided")
    )
    return f"| {described(scenario)} | {100 * gain:.0f} | {percent(found.held)} | {shares} |"


def fold_row(pictures: int, folds: int, count: int) -> str:
    corrected, uncorrected = [], []
    truth = mean_accuracy(pictures - pictures // folds)
    for scores in cross_validations(pictures, folds, count):
        mean, sd = float(scores.mean()), float(scores.std(ddof=1))
        corrected.append(fold_spread(mean, sd, folds).estimate.interval)
        plain = Spread(value=mean, variance=sd**2 / folds, freedom=folds - 1.0)
        uncorrected.append(plain.estimate.interval)
    ours, theirs = coverage(corrected, truth), coverage(uncorrected, truth)
    return (
        f"| {pictures} | {folds} | {percent(ours.held)} | {100 * ours.width:.1f} | "
        f"{percent(theirs.held)} | {100 * theirs.width:.1f} |"
    )


def described(scenario: Scenario) -> str:
    return (
        f"{scenario.classes} | {scenario.groups} | {scenario.pictures} | "
        f"{percent(scenario.accuracy)} | {scenario.correlation:g}"
    )


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


SCORES = (
    Scenario(classes=3, groups=20, pictures=5, accuracy=0.7, correlation=0.3),
    Scenario(classes=3, groups=20, pictures=5, accuracy=0.95, correlation=0.3),
    Scenario(classes=10, groups=20, pictures=1, accuracy=0.8, correlation=0.0),
    Scenario(classes=5, groups=10, pictures=5, accuracy=0.7, correlation=0.3),
    Scenario(classes=5, groups=10, pictures=5, accuracy=0.9, correlation=0.5),
    Scenario(classes=5, groups=6, pictures=5, accuracy=0.7, correlation=0.3),
    Scenario(classes=5, groups=4, pictures=5, accuracy=0.7, correlation=0.3),
    Scenario(classes=5, groups=3, pictures=5, accuracy=0.7, correlation=0.3),
    Scenario(classes=2, groups=3, pictures=5, accuracy=0.7, correlation=0.3),
    Scenario(classes=1, groups=5, pictures=5, accuracy=0.7, correlation=0.3),
)
PAIRS = (
    *((SCORES[0], gain) for gain in (0.0, 0.05, 0.15)),
    *((SCORES[2], gain) for gain in (0.0, 0.05, 0.15)),
    (SCORES[6], 0.0),
    (SCORES[8], 0.0),
)
FOLDS = ((60, 3), (60, 5), (300, 3), (300, 5), (300, 10))


def lines(count: int) -> Iterator[str]:
    yield "# How often the intervals hold the truth"
    yield ""
    error = 100 * (0.95 * 0.05 / count) ** 0.5
    yield (
        f"Written by `benchmarks/coverage.py`: {count} draws a row, {RESAMPLES} resamples, so a "
        f"share of 95 % has a standard error of {error:.1f} points. Shares are in per cent, "
        "widths and differences in points; the stated rate is 95 %."
    )
    yield from ("", "## Balanced accuracy on a test set", "")
    yield (
        "| classes | groups a class | pictures a group | accuracy | correlation within groups | "
        "draws with an interval | held the truth | mean width | held by a t interval of pictures |"
    )
    yield "| ---: " * 9 + "|"
    for scenario in SCORES:
        yield score_row(scenario, count)
    yield from ("", "## Difference of two models on the same test set", "")
    yield (
        "| classes | groups a class | pictures a group | accuracy | correlation within groups | "
        "true difference | held the truth | better | worse | equal in practice | undecided |"
    )
    yield "| ---: " * 11 + "|"
    for scenario, gain in PAIRS:
        yield paired_row(scenario, gain, count)
    yield from ("", "## Mean over the folds of a cross-validation", "")
    yield "| pictures | folds | corrected t held | mean width | uncorrected t held | mean width |"
    yield "| ---: " * 6 + "|"
    for pictures, folds in FOLDS:
        yield fold_row(pictures, folds, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    written = []
    for line in lines(options.draws):
        print(line, flush=True)
        written.append(line)
    if options.out:
        options.out.write_text("\n".join(written) + "\n")


if __name__ == "__main__":
    main()
