"""95 % intervals of scores: of a test set by its groups, of a cross-validation by its folds.

Where no honest interval can be given the estimate says why; see docs/statistics.md for the
assumptions, and benchmarks/results/coverage.md for how often the intervals hold the truth.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from scipy import stats

from bench.records import Estimate
from bench.statistics.answers import Answers, Counts, Floats, Integers

LEVEL = 0.95
RESAMPLES = 4999
# Fewer groups of a class say too little of how its recall varies (benchmarks/results/coverage.md).
LEAST_GROUPS_A_CLASS = 3
_ROUNDING = 1e-20  # variance of shares that differ by rounding alone
_BATCH = 500  # resamples in memory at a time

Metric = Callable[[Counts], Floats]
balanced_accuracy: Metric = attrgetter("balanced_accuracy")
precision: Metric = attrgetter("precision")
f1: Metric = attrgetter("f1")
log_loss: Metric = attrgetter("log_loss")
brier: Metric = attrgetter("brier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A value whose error, divided by the root of `variance`, follows a t distribution."""

    value: float
    variance: float
    freedom: float

    @property
    def is_flat(self) -> bool:
        """Whether nothing varies, but for rounding."""
        return self.variance < _ROUNDING

    @property
    def estimate(self) -> Estimate:
        if self.is_flat:
            return Estimate(value=self.value, interval=None, why_not="nothing varies")
        low, high = stats.t.interval(LEVEL, self.freedom, loc=self.value, scale=self.variance**0.5)
        return Estimate(value=self.value, interval=(float(low), float(high)))


# --- a test set -----------------------------------------------------------------------------


def bootstrap(answers: Answers, metric: Metric, *, resamples: int = RESAMPLES) -> Estimate:
    """Give a test score its interval by resampling groups, never single pictures of them.

    The bias-corrected and accelerated bootstrap (BCa; Efron, 1987, "Better bootstrap confidence
    intervals", JASA 82) by scipy, over clusters (Field and Welsh, 2007, "Bootstrapping clustered
    data", JRSS B 69). A bootstrap of n things is too narrow by sqrt((n-1)/n) and by the normal in
    place of the t quantile, so its level is raised as in Hesterberg (2014, "What teachers should
    know about the bootstrap", arXiv:1411.5279), with one degree of freedom less for each class,
    since the mean of every class is estimated from its own groups.

    The same answers give the same interval. How often it held the truth in simulations, and how
    much less often with few groups a class, is in benchmarks/results/coverage.md.
    """
    return _resampled(
        answers, lambda weights_bg: metric(answers.by_group.weighted(weights_bg)), resamples
    )


def bootstrap_change(
    before: Answers, after: Answers, metric: Metric, *, resamples: int = RESAMPLES
) -> Estimate:
    """How a score of the same pictures changes, after - before, with the interval of `bootstrap`.

    Both are taken of the same resamples, so that what makes pictures hard cancels out.
    """

    def change(weights_bg: Floats) -> Floats:
        changed: Floats = metric(after.by_group.weighted(weights_bg)) - metric(
            before.by_group.weighted(weights_bg)
        )
        return changed

    return _resampled(after, change, resamples)


def _resampled(answers: Answers, metric_of: Callable[[Floats], Floats], resamples: int) -> Estimate:
    """The BCa interval of a metric, which is given (B, G) weights of the groups."""
    value = float(metric_of(np.ones((1, answers.groups)))[0])
    why_not = lack_of_groups(answers)
    if why_not is not None:
        return Estimate(value=value, interval=None, why_not=why_not)
    groups = answers.groups

    def statistic(drawn: Integers, axis: int) -> Floats:
        del axis  # scipy always asks for the last one
        rows = drawn.reshape(-1, drawn.shape[-1])
        offsets = groups * np.arange(len(rows))[:, None]
        cells = np.bincount((rows + offsets).ravel(), minlength=groups * len(rows))
        weights_bg = cells.reshape(len(rows), groups).astype(np.float64)
        return metric_of(weights_bg).reshape(drawn.shape[:-1])

    with warnings.catch_warnings():
        # Resamples that are all alike; told below.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.filterwarnings("ignore", message="invalid value|divide by zero")
        result = stats.bootstrap(
            (np.arange(groups),),
            statistic,
            vectorized=True,
            n_resamples=resamples,
            batch=_BATCH,
            confidence_level=_raised_level(groups, answers.classes),
            method="BCa",
            rng=np.random.default_rng(0),
        )
    low, high = map(float, result.confidence_interval)
    if not (np.isfinite(low) and np.isfinite(high)):
        return Estimate(value=value, interval=None, why_not=_alike(answers))
    return Estimate(value=value, interval=(low, high))


def lack_of_groups(answers: Answers) -> str | None:
    """Say why the groups are too few for an interval; None when they are not."""
    counts = answers.groups_a_class
    fewest = int(counts[counts > 0].min())
    if fewest < LEAST_GROUPS_A_CLASS:
        return (
            f"a class has only {fewest} of the {answers.groups} {answers.unit}, and an interval "
            f"needs {LEAST_GROUPS_A_CLASS} of each class"
        )
    if answers.groups <= answers.classes:
        # Each holds several classes, and the mean recall of K classes takes K degrees of freedom.
        return (
            f"there are only {answers.groups} {answers.unit} for {answers.classes} classes, and an "
            "interval needs more of them than classes"
        )
    return None


def _raised_level(groups: int, classes: int) -> float:
    freedom = groups - classes
    quantile = stats.t.ppf(0.5 + LEVEL / 2, freedom) * (groups / freedom) ** 0.5
    return float(2 * stats.norm.cdf(quantile) - 1)


def _alike(answers: Answers) -> str:
    right = answers.whole.right.sum() / answers.whole.true.sum()
    if right in (0.0, 1.0):
        return f"all answers are {'right' if right else 'wrong'}, so no resample differs"
    return f"all {answers.unit} score alike, so no resample differs"


def cluster_spread(answers: Answers, against: Answers | None = None) -> Spread:
    """Balanced accuracy with the cluster-robust variance of its mean recalls.

    With `against`, the difference of the two models on the same pictures, paired within groups.
    The variance is that of the groups' linearised contributions (Liang and Zeger, 1986,
    "Longitudinal data analysis using generalized linear models", Biometrika 73), with G - K
    degrees of freedom for G groups and K classes.
    """
    mine = answers.by_group
    right_gk = mine.right - (0.0 if against is None else against.by_group.right)
    there = answers.whole.true > 0
    right_gk, true_gk = right_gk[:, there], mine.true[:, there]
    pictures_k = true_gk.sum(axis=0)
    recalls_k = right_gk.sum(axis=0) / pictures_k
    groups, classes = true_gk.shape
    contributions_g = ((right_gk - recalls_k * true_gk) / (classes * pictures_k)).sum(axis=1)
    freedom = max(groups - classes, 1)
    return Spread(
        value=float(recalls_k.mean()),
        variance=float((contributions_g**2).sum() * groups / freedom),
        freedom=float(freedom),
    )


def unpaired(first: Spread, second: Spread) -> Spread:
    """The first minus the second, which come from different pictures, so their variances add.

    The degrees of freedom are Welch's (1947, "The generalization of Student's problem ...",
    Biometrika 34).
    """
    variance = first.variance + second.variance
    parts = sum(spread.variance**2 / spread.freedom for spread in (first, second))
    return Spread(
        value=first.value - second.value,
        variance=variance,
        freedom=variance**2 / parts if parts else first.freedom + second.freedom,
    )


# --- a cross-validation ---------------------------------------------------------------------


def fold_spread(mean: float, sd: float, folds: int) -> Spread:
    """The mean over folds with the corrected resampled t variance.

    Folds share training pictures, so their scores are correlated: 1 / folds is added the ratio of
    test to training pictures (Nadeau and Bengio, 2003, "Inference for the generalization error",
    Machine Learning 52), which is 1 / (folds - 1) here. `sd` is that of n - 1.
    """
    return Spread(
        value=mean,
        variance=sd**2 * (1 / folds + 1 / (folds - 1)),
        freedom=float(folds - 1),
    )


def cross_validated(mean: float, sd: float | None, folds: int) -> Estimate:
    """The mean balanced accuracy over folds; its interval is cut to what a score can be."""
    if sd is None:
        return Estimate(value=mean, interval=None, why_not="one fold has no spread")
    estimate = fold_spread(mean, sd, folds).estimate
    if estimate.interval is None:
        return Estimate(value=mean, interval=None, why_not="all folds score alike")
    low, high = estimate.interval
    return Estimate(value=mean, interval=(max(low, 0.0), min(high, 1.0)))


def optimism(mean: float, sd: float | None, folds: int, answers: Answers) -> Estimate:
    """The cross-validated score minus the test score: what choosing by the former flattered."""
    outer = cluster_spread(answers)
    why_not = "one fold has no spread" if sd is None else lack_of_groups(answers)
    if sd is None or why_not is not None:
        return Estimate(value=mean - outer.value, interval=None, why_not=why_not)
    return unpaired(fold_spread(mean, sd, folds), outer).estimate
