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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.statistics.answers import Answers
from bench.statistics.comparisons import Verdict, on_test_pictures
from bench.statistics.intervals import (
    LEAST_FREEDOM,
    Metric,
    Spread,
    balanced_accuracy,
    bootstrap,
    cluster_spread,
    f1,
    fold_spread,
    log_loss,
    precision,
)

Generator = np.random.Generator
Floats = npt.NDArray[np.float64]
RESAMPLES = 999
SURE = 0.8  # the probability that every answer names


@dataclass(frozen=True)
class Scenario:
    """Test sets of `classes` classes with `groups` groups each, of 1 to 2 * `pictures` - 1.

    Groups are of one class; where they are `mixed`, each of their pictures is of any class.
    """

    classes: int
    groups: int
    pictures: int
    accuracy: float
    correlation: float
    mixed: bool = False

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
        if self.mixed:
            labels = np.arange(len(groups)) % self.classes
        named = np.where(is_right, labels, (labels + 1) % self.columns)
        probabilities = np.full((len(named), self.columns), (1 - SURE) / (self.columns - 1))
        probabilities[np.arange(len(named)), named] = SURE
        return Answers.of(labels, probabilities, groups, "groups")

    @property
    def columns(self) -> int:
        """Classes that can be named: a single one is mistaken for one that is never true."""
        return max(self.classes, 2)

    @property
    def log_loss(self) -> float:
        """Its expectation."""
        wrong = -np.log((1 - SURE) / (self.columns - 1))
        return float(self.accuracy * -np.log(SURE) + (1 - self.accuracy) * wrong)


def as_pictures(answers: Answers) -> Answers:
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


# --- the tables -----------------------------------------------------------------------------


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


def score_coverage(scenario: Scenario, metric: Metric, count: int) -> Coverage:
    truth = scenario.log_loss if metric is log_loss else scenario.accuracy
    intervals = [
        bootstrap(answers, metric, resamples=RESAMPLES).interval
        for answers in draws(scenario, count)
    ]
    return coverage(intervals, truth)


def resampled_share(scenario: Scenario, count: int) -> float:
    """Of the draws, those whose interval is BCa's: it is given, and not Wilson's."""
    spreads = [cluster_spread(answers) for answers in draws(scenario, count)]
    return float(
        np.mean([not spread.is_flat and spread.freedom >= LEAST_FREEDOM for spread in spreads])
    )


def picture_coverage(scenario: Scenario, count: int) -> Coverage:
    """Of a t interval that takes every picture for independent of its group."""
    intervals = [
        cluster_spread(as_pictures(answers)).estimate.interval for answers in draws(scenario, count)
    ]
    return coverage(intervals, scenario.accuracy)


def paired_coverage(
    scenario: Scenario, gain: float, count: int
) -> tuple[Coverage, Counter[Verdict]]:
    """Two models that share the groups' difficulties; the second's accuracy is lower by `gain`."""
    comparisons = [
        on_test_pictures(first, second) for first, second in paired_draws(scenario, gain, count)
    ]
    held = coverage([comparison.difference.interval for comparison in comparisons], gain)
    return held, Counter(comparison.verdict for comparison in comparisons)


def score_row(scenario: Scenario, count: int) -> str:
    found = score_coverage(scenario, balanced_accuracy, count)
    return (
        f"| {described(scenario)} | {percent(found.given)} | "
        f"{100 * resampled_share(scenario, count):.0f} | "
        f"{percent(found.held)} | {100 * found.width:.1f} | "
        f"{percent(picture_coverage(scenario, count).held)} |"
    )


def other_row(scenario: Scenario, count: int) -> str:
    """Of the scores that are no mean over groups of one class."""
    each = (score_coverage(scenario, metric, count) for metric in (f1, precision, log_loss))
    cells = " | ".join(f"{percent(found.given)} | {percent(found.held)}" for found in each)
    return f"| {described(scenario)} | {cells} |"


def paired_row(scenario: Scenario, gain: float, count: int) -> str:
    found, verdicts = paired_coverage(scenario, gain, count)
    shares = " | ".join(
        percent(verdicts[verdict] / count)
        for verdict in ("better", "worse", "equal in practice", "undecided")
    )
    return f"| {described(scenario)} | {100 * gain:.0f} | {percent(found.held)} | {shares} |"


def fold_coverage(pictures: int, folds: int, count: int) -> tuple[Coverage, Coverage]:
    """Of the corrected and of the uncorrected interval."""
    corrected, uncorrected = [], []
    truth = mean_accuracy(pictures - pictures // folds)
    for scores in cross_validations(pictures, folds, count):
        mean, sd = float(scores.mean()), float(scores.std(ddof=1))
        corrected.append(fold_spread(mean, sd, folds).estimate.interval)
        plain = Spread(value=mean, variance=sd**2 / folds, freedom=folds - 1.0)
        uncorrected.append(plain.estimate.interval)
    return coverage(corrected, truth), coverage(uncorrected, truth)


def fold_row(pictures: int, folds: int, count: int) -> str:
    ours, theirs = fold_coverage(pictures, folds, count)
    return (
        f"| {pictures} | {folds} | {percent(ours.held)} | {100 * ours.width:.1f} | "
        f"{percent(theirs.held)} | {100 * theirs.width:.1f} |"
    )


def described(scenario: Scenario) -> str:
    return (
        f"{scenario.classes} | {scenario.groups}{' mixed' * scenario.mixed} | "
        f"{scenario.pictures} | "
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
    Scenario(classes=5, groups=4, pictures=5, accuracy=0.8, correlation=0.3, mixed=True),
    Scenario(classes=3, groups=40, pictures=5, accuracy=0.98, correlation=0.3),
)
# Few mistakes among few pictures or groups: their number leaps, and so does what can be held.
EXTREMES = (
    Scenario(classes=10, groups=10, pictures=1, accuracy=0.95, correlation=0.0),
    Scenario(classes=3, groups=10, pictures=5, accuracy=0.95, correlation=0.3),
    Scenario(classes=5, groups=3, pictures=5, accuracy=0.9, correlation=0.3),
    Scenario(classes=2, groups=6, pictures=5, accuracy=0.9, correlation=0.3),
    Scenario(classes=1, groups=10, pictures=5, accuracy=0.9, correlation=0.3),
    Scenario(classes=1, groups=4, pictures=5, accuracy=0.7, correlation=0.3),
    Scenario(classes=1, groups=3, pictures=5, accuracy=0.7, correlation=0.3),
)
OTHERS = (*SCORES[:3], SCORES[4], SCORES[6])
PAIRS = (
    *((SCORES[0], gain) for gain in (0.0, 0.05, 0.15)),
    *((SCORES[2], gain) for gain in (0.0, 0.05, 0.15)),
    (SCORES[6], 0.0),
    (SCORES[8], 0.0),
    (SCORES[10], 0.0),
)
FOLDS = ((60, 3), (60, 5), (300, 3), (300, 5), (300, 10))


SCENARIO = "| classes | groups a class | pictures a group | accuracy | correlation within groups |"


def lines(count: int) -> Iterator[str]:
    yield "# How often the intervals hold the truth"
    yield ""
    error = 100 * (0.95 * 0.05 / count) ** 0.5
    yield (
        f"Written by `benchmarks/coverage.py`: {count} draws a row, {RESAMPLES} resamples, so a "
        f"share of 95 % has a standard error of {error:.1f} points. Shares are in per cent, "
        "widths and differences in points; the stated rate is 95 %. Where it is not BCa's, a score "
        "that is a share has Wilson's interval, and log-loss none (docs/statistics.md)."
    )
    for heading, scenarios in (
        ("Balanced accuracy on a test set", SCORES),
        ("The same with next to no mistakes or groups", EXTREMES),
    ):
        yield from table(
            heading,
            f"{SCENARIO} draws with an interval | with a BCa interval | held the truth "
            "| mean width | held by a t interval of pictures |",
            (score_row(scenario, count) for scenario in scenarios),
        )
    yield from table(
        "Other scores on a test set",
        f"{SCENARIO} draws with an interval of macro F1 | held the truth "
        "| draws with an interval of macro precision | held the truth "
        "| draws with an interval of log-loss | held the truth |",
        (other_row(scenario, count) for scenario in OTHERS),
    )
    yield from table(
        "Difference of two models on the same test set",
        f"{SCENARIO} true difference | held the truth | better | worse | equal in practice "
        "| undecided |",
        (paired_row(scenario, gain, count) for scenario, gain in PAIRS),
    )
    yield from table(
        "Mean over the folds of a cross-validation",
        "| pictures | folds | corrected t held | mean width | uncorrected t held | mean width |",
        (fold_row(pictures, folds, count) for pictures, folds in FOLDS),
    )


def table(heading: str, headers: str, rows: Iterable[str]) -> Iterator[str]:
    """A section of one table, whose columns are all numbers."""
    yield from ("", f"## {heading}", "", headers)
    yield "| ---: " * (headers.count("|") - 1) + "|"
    yield from rows


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
