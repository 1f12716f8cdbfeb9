"""95 % intervals of scores: of a test set by its groups, of a cross-validation by its folds.

Where no honest interval can be given the estimate says why; see docs/statistics.md for the
assumptions, and benchmarks/results/coverage.md for how often the intervals hold the truth.

Shapes: G groups, B resamples; S strata, within which groups are resampled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Self

import numpy as np
from scipy import stats

from bench.records import Estimate
from bench.statistics.answers import Answers, Counts, Floats, Integers
from bench.words import counted

LEVEL = 0.95
RESAMPLES = 4999
# Fewer groups of a class say too little of how its recall varies.
LEAST_GROUPS_A_CLASS = 3
# With fewer degrees of freedom the bootstrap's tails are made of a handful of groups.
LEAST_FREEDOM = 8
_ROUNDING = 1e-20  # variance of shares that differ by rounding alone
_BATCH = 500  # resamples in memory at a time
_NUDGE = 1e-4  # of a group's weight, for derivatives

# What is asked of the groups' sums, once it is said how these are taken.
Statistic = Callable[[Callable[[Counts], Counts]], Floats]


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
    def quantile(self) -> float:
        """Of the t distribution: half of the interval, in standard errors."""
        return float(stats.t.ppf(0.5 + LEVEL / 2, self.freedom))

    @property
    def estimate(self) -> Estimate:
        if self.is_flat:
            return Estimate(value=self.value, interval=None, why_not="nothing varies")
        return Estimate(value=self.value, interval=self.students_interval())

    def students_interval(self) -> tuple[float, float]:
        half = self.quantile * self.variance**0.5
        return self.value - half, self.value + half

    def wilsons_interval(self) -> tuple[float, float]:
        """Of a share, which varies the less the nearer it is to 0 or 1, and ends there.

        Wilson (1927, "Probable inference, the law of succession, and statistical inference",
        JASA 22) for as many independent trials as would vary as much, with the t quantile: the
        form for clustered data that Franco, Little, Louis and Slud compare (2019, "Comparative
        study of confidence intervals for proportions in complex sample surveys", J. Survey
        Statistics and Methodology 7).
        """
        share, squared = self.value, self.quantile**2
        trials = share * (1 - share) / self.variance
        middle = (share * trials + squared / 2) / (trials + squared)
        half = (squared * (share * (1 - share) * trials + squared / 4)) ** 0.5 / (trials + squared)
        return middle - half, middle + half


def lack_of_groups(answers: Answers) -> str | None:
    """Say why the groups are too few for an interval; None when they are not."""
    counts = answers.groups_a_class
    fewest = int(counts[counts > 0].min())
    if fewest < LEAST_GROUPS_A_CLASS:
        only = counted(fewest, answers.unit.removesuffix("s"))
        were = "was" if fewest == 1 else "were"
        return f"only {only} of a class {were} tested, {LEAST_GROUPS_A_CLASS} are needed"
    return None


def lack_of_named_groups(answers: Answers) -> str | None:
    """Say why a score by what was predicted has no interval; None when it can have one."""
    there = answers.groups_a_class > 0
    fewest = int((answers.by_group.predicted > 0).sum(axis=0)[there].min())
    if fewest < LEAST_GROUPS_A_CLASS:
        unit = answers.unit.removesuffix("s")
        only = f"only {counted(fewest, unit)}" if fewest else f"no {unit}"
        return f"a class is predicted in {only}, {LEAST_GROUPS_A_CLASS} are needed"
    return lack_of_groups(answers)


@dataclass(frozen=True, slots=True)
class Metric:
    """A score of test pictures.

    is_share: it is 0 when all answers are wrong, 1 when right.
    lack: says why its interval would not be honest, if so.
    """

    of: Callable[[Counts], Floats]
    is_share: bool
    lack: Callable[[Answers], str | None] = lack_of_groups


balanced_accuracy = Metric(attrgetter("balanced_accuracy"), is_share=True)
# A mean over classes moves by a whole class's share with the one answer that names it.
precision = Metric(attrgetter("precision"), is_share=True, lack=lack_of_named_groups)
f1 = Metric(attrgetter("f1"), is_share=True)
log_loss = Metric(attrgetter("log_loss"), is_share=False)
brier = Metric(attrgetter("brier"), is_share=False)


# --- a test set -----------------------------------------------------------------------------


def bootstrap(answers: Answers, metric: Metric, *, resamples: int = RESAMPLES) -> Estimate:
    """Give a test score its interval by resampling groups, never single pictures of them.

    The bias-corrected and accelerated bootstrap (BCa; Efron, 1987, "Better bootstrap confidence
    intervals", JASA 82) by scipy, over clusters (Field and Welsh, 2007, "Bootstrapping clustered
    data", JRSS B 69) within the strata of `Answers.strata`. A bootstrap of n things is too narrow
    by sqrt((n-1)/n) and by the normal in place of the t quantile, so its level is raised as in
    Hesterberg (2014, "What teachers should know about the bootstrap", arXiv:1411.5279), with the
    degrees of freedom that the groups have in truth (`_Influences`).

    Below `LEAST_FREEDOM` of these (few groups, or few that have a mistake at all) the tails are
    made of a handful of groups; a share then gets Wilson's interval for clustered data, and a
    loss none. How often each held the truth is in benchmarks/results/coverage.md. The same answers
    give the same interval.
    """
    return _interval(
        answers,
        _score(metric, answers),
        resamples,
        is_share=metric.is_share,
        why_not=metric.lack(answers),
    )


def bootstrap_change(
    before: Answers, after: Answers, metric: Metric, *, resamples: int = RESAMPLES
) -> Estimate:
    """How a score of the same pictures changes, after - before, with the interval of `bootstrap`.

    Both are taken of the same resamples, so that what makes pictures hard cancels out.
    """
    lack = metric.lack(before) or metric.lack(after)
    return _interval(after, _change(metric, before, after), resamples, is_share=False, why_not=lack)


def _score(metric: Metric, answers: Answers) -> Statistic:
    return lambda sums: metric.of(sums(answers.by_group))


def _change(metric: Metric, before: Answers, after: Answers) -> Statistic:
    score_before, score_after = _score(metric, before), _score(metric, after)
    return lambda sums: score_after(sums) - score_before(sums)


def _interval(
    answers: Answers,
    statistic: Statistic,
    resamples: int,
    *,
    is_share: bool,
    why_not: str | None,
) -> Estimate:
    influences = _Influences.of(statistic, answers.strata)
    spread = influences.spread
    if why_not is None and spread.is_flat:
        why_not = _alike(answers)
    if why_not is not None:
        return Estimate(value=spread.value, interval=None, why_not=why_not)
    interval = None
    if spread.freedom >= LEAST_FREEDOM:
        interval = _resampled(statistic, answers.strata, influences.raised_level, resamples)
        why_not = "all resamples lie on one side of the score"
    else:
        why_not = (
            f"few of the {answers.groups} {answers.unit} make most of it "
            f"({spread.freedom + 1:.1f} effective ones, {LEAST_FREEDOM + 1} are needed)"
        )
    if interval is None and is_share:
        interval = spread.wilsons_interval()
    return Estimate(
        value=spread.value, interval=interval, why_not=why_not if interval is None else None
    )


def _resampled(
    statistic: Statistic, strata_g: Integers, level: float, resamples: int
) -> tuple[float, float] | None:
    """BCa's interval; None where it has no ends, because the score is beyond all resamples.

    A score that is no mean (macro F1) can be, were it of thousands of classes. Equal jackknife
    values, BCa's other way to fail, are those of a flat `Spread`, which is never resampled.
    """
    members = [np.flatnonzero(strata_g == stratum) for stratum in np.unique(strata_g)]
    groups = len(strata_g)

    def of_resamples(*drawn: Integers, axis: int) -> Floats:
        del axis  # scipy always asks for the last one
        rows = np.concatenate(drawn, axis=-1)
        shape = rows.shape[:-1]
        rows = rows.reshape(-1, rows.shape[-1])
        cells = rows + groups * np.arange(len(rows))[:, None]
        counts = np.bincount(cells.ravel(), minlength=groups * len(rows))
        weights_bg = counts.reshape(len(rows), groups).astype(np.float64)
        return statistic(lambda by_group: by_group.weighted(weights_bg)).reshape(shape)

    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            members,
            of_resamples,
            vectorized=True,
            n_resamples=resamples,
            batch=_BATCH,
            confidence_level=level,
            method="BCa",
            rng=np.random.default_rng(0),
        )
    low, high = map(float, result.confidence_interval)
    return (low, high) if np.isfinite((low, high)).all() else None


def _alike(answers: Answers) -> str:
    right = answers.whole.right.sum() / answers.whole.true.sum()
    if right in (0.0, 1.0):
        return f"all answers are {'right' if right else 'wrong'}, so no resample differs"
    return f"all {answers.unit} score alike, so no resample differs"


def cluster_spread(answers: Answers, against: Answers | None = None) -> Spread:
    """Balanced accuracy with the variance over groups.

    With `against`, the difference of the two models on the same pictures, paired within groups.
    """
    if against is None:
        statistic = _score(balanced_accuracy, answers)
    else:
        statistic = _change(balanced_accuracy, against, answers)
    return _Influences.of(statistic, answers.strata).spread


@dataclass(frozen=True, slots=True)
class _Influences:
    """How each group moves a metric, less the mean of its stratum.

    The derivative by the group's weight: the infinitesimal jackknife (Jaeckel, 1972; Efron, 1982,
    "The jackknife, the bootstrap and other resampling plans"), which for balanced accuracy is the
    linearisation of Liang and Zeger (1986, "Longitudinal data analysis using generalized linear
    models", Biometrika 73).
    """

    value: float
    influences_g: Floats
    strata_g: Integers

    @classmethod
    def of(cls, statistic: Statistic, strata_g: Integers) -> Self:
        (value,) = statistic(lambda by_group: by_group.weighted(np.ones((1, len(strata_g)))))
        more_g = statistic(lambda by_group: by_group.nudged(_NUDGE))
        less_g = statistic(lambda by_group: by_group.nudged(-_NUDGE))
        influences_g = (more_g - less_g) / (2 * _NUDGE)
        means_s = np.bincount(strata_g, weights=influences_g) / np.bincount(strata_g)
        return cls(float(value), influences_g - means_s[strata_g], strata_g)

    @property
    def spread(self) -> Spread:
        freedom = min(self._freedom_of_strata, self._freedom_of_tails)
        return Spread(
            value=self.value,
            variance=float(self._variances_s.sum()),
            freedom=max(freedom, 1.0),  # none is left where each class is one group
        )

    @property
    def raised_level(self) -> float:
        """The level at which a bootstrap within the strata is as wide as it should be at `LEVEL`.

        It resamples n things of each stratum, so its variance is (n - 1) / n of what it should be.
        """
        resampled = (self._variances_s * (self._sizes_s - 1) / self._sizes_s).sum()
        too_narrow = float((resampled / self._variances_s.sum()) ** 0.5)
        return float(2 * stats.norm.cdf(self.spread.quantile / too_narrow) - 1)

    @property
    def _sizes_s(self) -> Integers:
        """Groups of each stratum."""
        return np.asarray(np.bincount(self.strata_g), dtype=np.int64)

    @property
    def _variances_s(self) -> Floats:
        """What each stratum adds to the variance, without bias."""
        squares_s = np.bincount(self.strata_g, weights=self.influences_g**2)
        variances: Floats = squares_s * self._sizes_s / np.maximum(self._sizes_s - 1, 1)
        return variances

    @property
    def _freedom_of_strata(self) -> float:
        """Degrees of freedom of a sum of unequal variances.

        Satterthwaite (1946, "An approximate distribution of estimates of variance components",
        Biometrics Bulletin 2).
        """
        freedoms_s = self._sizes_s - 1
        parts = (self._variances_s**2 / np.maximum(freedoms_s, 1)).sum()
        return float(self._variances_s.sum() ** 2 / parts if parts else freedoms_s.sum())

    @property
    def _freedom_of_tails(self) -> float:
        """Degrees of freedom of a variance that few groups make, by the kurtosis over all groups.

        O'Neill (2014, "Some useful moment results in sampling problems", The American Statistician
        68). Where three groups of sixty hold all mistakes, the variance is known no better than
        from a handful of groups.
        """
        groups = len(self.influences_g)
        freedom = groups - len(self._sizes_s)
        squares = (self.influences_g**2).mean()
        excess = (self.influences_g**4).mean() / squares**2 - 3 if squares else 0.0
        return float(freedom / (1 + max(excess, 0.0) * freedom / (2 * groups)))


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
