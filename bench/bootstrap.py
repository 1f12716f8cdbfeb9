"""Intervals from a few fresh processes, by the percentile bootstrap (Efron, 1979).

The resampled unit is a process, never a call: calls of one process resemble one another far more
than processes do, so an interval from calls would be too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

CONFIDENCE = 0.95
# The widest interval that resampling n values can give is their range, which holds the true
# median with probability 1 - 2 / 2**n: 0.75 for three, 0.94 for five.
LEAST_VALUES = 5
_RESAMPLES = 9_999
_SEED = 20_111


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The bootstrap interval of the median, at 95 %; None of fewer than five values.

    Five values cover the true median in 94 % of all cases, not 95 (see `LEAST_VALUES`).
    """
    if len(values) < LEAST_VALUES:
        return None
    import numpy as np
    from scipy import stats

    interval = stats.bootstrap(
        (np.asarray(values, dtype=np.float64),),
        np.median,
        n_resamples=_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)
