"""Racing: stop a trial once the best one so far is better beyond chance, picture by picture.

After each fold the trial's out-of-fold predictions are compared with those of the best complete
trial on the same pictures. Pairing removes what makes folds differ (some pictures are hard for
every recipe), so far fewer folds are needed than when fold means are compared (Maron and Moore,
NIPS 1993; Birattari et al., GECCO 2002).

Log-losses tell two trials apart on fewer pictures than counts of right and wrong. But a study
maximises balanced accuracy, and smoothed labels, for one, raise the loss without making a mistake
more. So a trial that is ahead in balanced accuracy on its finished folds goes on in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import FrozenTrial, TrialState
from scipy import stats

from bench.records import StudyPlan, trial_order
from bench.training.folds import fold_file, read_fold
from bench.workspace import Workspace

# Probability of calling equal losses worse at one look; four looks call about 2.5 times as many.
# Chosen by replaying recorded studies: `benchmarks/pruner_replay.py`.
ALPHA = 0.1
# Log-losses beyond this (in nats) count as this: one certain mistake must not decide alone.
_MOST_LOSS = 5.0

Floats = npt.NDArray[np.float64]
# Log-losses of the validation pictures of (trial, fold); None where they cannot be read.
FoldLosses = Callable[[int, int], Floats | None]


class Race:
    """The rule of a racing study: each finished fold is a look at the best complete trial.

    `groups_by_fold` names the group of each validation picture, in the order of `losses_of`;
    `epochs` is their number in a fold, because the study is told a running mean at each.
    """

    def __init__(
        self,
        study: optuna.Study,
        groups_by_fold: Sequence[Sequence[object]],
        losses_of: FoldLosses,
        *,
        epochs: int,
        alpha: float = ALPHA,
    ) -> None:
        self._study = study
        self._groups = groups_by_fold
        self._losses_of = losses_of
        self._epochs = epochs
        self._alpha = alpha

    def is_lost(self, number: int, last_fold: int) -> bool:
        """Whether a trial that has finished its folds up to `last_fold` should be stopped."""
        trials = self._study.get_trials(deepcopy=False)
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if not complete:
            return False
        best = max(complete, key=lambda other: trial_order(other.value or 0.0, other.number))
        if self._mean(trials[number], last_fold) > self._mean(best, last_fold):
            return False
        ours, theirs = self._losses(number, last_fold), self._losses(best.number, last_fold)
        if ours is None or theirs is None:
            return False
        groups = list(chain.from_iterable(self._groups[: last_fold + 1]))
        return is_worse(ours, theirs, groups, alpha=self._alpha)

    def _mean(self, trial: FrozenTrial, last_fold: int) -> float:
        """Balanced accuracy over the folds up to `last_fold`."""
        return trial.intermediate_values[(last_fold + 1) * self._epochs - 1]

    def _losses(self, number: int, last_fold: int) -> Floats | None:
        losses = []
        for fold in range(last_fold + 1):
            of_fold = self._losses_of(number, fold)
            if of_fold is None:
                return None
            losses.append(of_fold)
        return np.concatenate(losses)


def groups_by_fold(plan: StudyPlan) -> list[list[object]]:
    """The group of each validation picture; one without a group is a group of its own."""
    pictures = plan.dataset.pictures
    return [[pictures[index].group or index for index in fold] for fold in plan.split.folds]


def stored_losses(plan: StudyPlan, number: int, fold: int) -> Floats | None:
    """Losses of a fold's validation pictures by what the trainer stored of them: (N,) in nats.

    None where the file is missing or damaged.
    """
    result = read_fold(fold_file(Workspace(Path(plan.workspace)), plan.study, number, fold))
    if result is None:
        return None
    labels = np.asarray(plan.dataset.labels, dtype=np.int64)
    return log_losses(labels[result.pictures], result.probabilities_nk)


def log_losses(
    labels_n: npt.NDArray[np.int64], probabilities_nk: npt.NDArray[np.float32]
) -> Floats:
    """Clipped negative log-likelihood of each picture: (N,) in nats."""
    likelihoods = probabilities_nk[np.arange(len(labels_n)), labels_n].astype(np.float64)
    return np.minimum(-np.log(np.maximum(likelihoods, 1e-12)), _MOST_LOSS)


def is_worse(
    trial_n: Floats, best_n: Floats, groups_n: Sequence[object], *, alpha: float = ALPHA
) -> bool:
    """Whether a trial's losses lie above the best trial's beyond chance.

    A one-sided paired t-test over groups: pictures of one group are not independent, so each
    group counts once, with its mean difference.
    """
    sums: dict[object, list[float]] = {}
    for group, difference in zip(groups_n, trial_n - best_n, strict=True):
        sums.setdefault(group, []).append(float(difference))
    means = np.asarray([np.mean(differences) for differences in sums.values()])
    if len(means) < 2 or np.ptp(means) == 0.0:
        return bool(len(means) > 1 and means[0] > 0.0)
    return bool(stats.ttest_1samp(means, 0.0, alternative="greater").pvalue < alpha)
