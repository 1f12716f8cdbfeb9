"""Racing: stop a trial once the best one so far is better beyond chance, picture by picture.

After each fold the trial's out-of-fold predictions are compared with those of the best complete
trial on the same pictures. Pairing removes what makes folds differ (some pictures are hard for
every recipe), so far fewer folds are needed than when fold means are compared (Maron and Moore,
NIPS 1993; Birattari et al., GECCO 2002).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

# Probability of stopping a trial that is no worse, at each look.
ALPHA = 0.05
# Log-losses beyond this (in nats) count as this: one certain mistake must not decide alone.
_MOST_LOSS = 5.0

Floats = npt.NDArray[np.float64]


def log_losses(
    labels_n: npt.NDArray[np.int64], probabilities_nk: npt.NDArray[np.float32]
) -> Floats:
    """Clipped negative log-likelihood of each picture: (N,) in nats."""
    likelihoods = probabilities_nk[np.arange(len(labels_n)), labels_n].astype(np.float64)
    return np.minimum(-np.log(np.maximum(likelihoods, 1e-12)), _MOST_LOSS)


def is_worse(trial_n: Floats, best_n: Floats, groups_n: Sequence[object]) -> bool:
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
    return bool(stats.ttest_1samp(means, 0.0, alternative="greater").pvalue < ALPHA)
