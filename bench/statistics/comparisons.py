"""Which of two models is better, in three probabilities and one word.

The Bayesian reading of the t tests below, with a region of practical equivalence (ROPE) of one
point: Benavoli, Corani, Demšar and Zaffalon (2017, "Time for a change: a tutorial for comparing
multiple classifiers through Bayesian analysis", JMLR 18), computed by their library baycomp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from baycomp.single import CorrelatedTTest, Posterior

from bench.records import Estimate
from bench.statistics.answers import Answers
from bench.statistics.intervals import Spread, cluster_spread, lack_of_groups, unpaired

ROPE = 0.01  # a difference below one point of balanced accuracy is none in practice
DECIDED = 0.95
Verdict = Literal["better", "worse", "equal in practice", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The first model against the second.

    difference: of balanced accuracies, first minus second.
    worse, equal, better: posterior probabilities that the first is worse by more than the ROPE,
        within it, better by more; None where nothing could be computed.
    """

    difference: Estimate
    probabilities: tuple[float, float, float] | None

    @property
    def verdict(self) -> Verdict:
        if self.probabilities is None:
            return "undecided"
        words: tuple[Verdict, ...] = ("worse", "equal in practice", "better")
        likeliest = int(np.argmax(self.probabilities))
        return words[likeliest] if self.probabilities[likeliest] >= DECIDED else "undecided"

    @property
    def beyond_chance(self) -> bool:
        """Whether the 95 % interval of the difference excludes 0: the two-sided test at 5 %."""
        interval = self.difference.interval
        return interval is not None and not interval[0] <= 0.0 <= interval[1]


def on_test_pictures(first: Answers, second: Answers) -> Comparison:
    """Compare two models by their answers to the same test pictures, paired within groups.

    Whole groups vary, not single pictures. Where the two are right and wrong alike in every group
    there is no variance to compute with; then at most a share of 1 - 0.025^(1/G) of all groups can
    be answered differently (Clopper and Pearson, 1934, with none seen among G), and that is the
    interval.

    Raises:
        ValueError: the answers are to different pictures.
    """
    if not np.array_equal(first.by_group.true, second.by_group.true):
        raise ValueError("the two models answered different pictures or groups")
    spread = cluster_spread(first, against=second)
    why_not = lack_of_groups(first)
    if why_not is not None:
        difference = Estimate(value=spread.value, interval=None, why_not=why_not)
        return Comparison(difference=difference, probabilities=None)
    if spread.is_flat:
        return _never_different(spread.value, first.groups)
    return _compared(spread)


def on_other_pictures(first: Answers, second: Answers) -> Comparison:
    """Compare two models by their answers to two test sets of different pictures, unpaired.

    Pictures that are in both sets make the interval too wide rather than too narrow.
    """
    spread = unpaired(cluster_spread(first), cluster_spread(second))
    why_not = lack_of_groups(first) or lack_of_groups(second)
    if why_not is not None:
        difference = Estimate(value=spread.value, interval=None, why_not=why_not)
        return Comparison(difference=difference, probabilities=None)
    if spread.is_flat:
        return Comparison(difference=spread.estimate, probabilities=None)
    return _compared(spread)


def on_folds(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Compare two trials by their scores on the same folds: the corrected resampled t test.

    Source of the correction: see `fold_spread`; of the test: Corani and Benavoli (2015, "A
    Bayesian approach for comparing cross-validated algorithms ...", Machine Learning 100).

    Raises:
        ValueError: the numbers of folds differ.
    """
    if len(first) != len(second):
        raise ValueError("the two trials have different folds")
    value = float(np.mean(first) - np.mean(second))
    if len(first) < 2:
        difference = Estimate(value=value, interval=None, why_not="one fold has no spread")
        return Comparison(difference=difference, probabilities=None)
    # baycomp subtracts its first argument from its second.
    mean, variance, freedom = CorrelatedTTest.compute_statistics(
        np.asarray(second), np.asarray(first)
    )
    spread = Spread(value=float(mean), variance=float(variance), freedom=float(freedom))
    if spread.is_flat:
        return Comparison(difference=spread.estimate, probabilities=None)
    return _compared(spread)


def _compared(spread: Spread) -> Comparison:
    posterior = Posterior(spread.value, spread.variance, spread.freedom, ROPE)
    worse, equal, better = map(float, posterior.probs())
    return Comparison(difference=spread.estimate, probabilities=(worse, equal, better))


def _never_different(value: float, groups: int) -> Comparison:
    most = 1 - (0.5 - DECIDED / 2) ** (1 / groups)
    low, high = value - most, value + most
    probabilities = None
    if low > ROPE:
        probabilities = (0.0, 0.0, 1.0)
    elif high < -ROPE:
        probabilities = (1.0, 0.0, 0.0)
    elif max(abs(low), abs(high)) <= ROPE:
        probabilities = (0.0, 1.0, 0.0)
    difference = Estimate(value=value, interval=(low, high))
    return Comparison(difference=difference, probabilities=probabilities)
