"""Pruners by name. The value they see is the running mean over folds (`running_mean`)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import optuna
from optuna.pruners import BasePruner

from bench.errors import not_among
from bench.records import EpochScores
from bench.search.options import PRUNERS


def make_pruner(name: str, *, folds: int, epochs: int) -> BasePruner:
    """Build a pruner.

    Raises:
        InputError: no pruner has that name.
    """
    match name:
        case "racing" | "median":  # the race itself is the coordinator's: Optuna knows no pictures
            return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=folds * epochs)
        case "none":
            return optuna.pruners.NopPruner()
    raise not_among("--pruner", name, PRUNERS)


def running_mean(epochs: Sequence[EpochScores]) -> float:
    """Mean over the finished folds' last epochs and the running fold's current epoch.

    A raw value per epoch would let one lucky fold protect a trial, because Optuna's median
    pruner compares a trial's best value so far.
    """
    last = {row.fold: row.balanced_accuracy for row in epochs}
    return fmean(last.values())


def step_of(scores: EpochScores, epochs: int) -> int:
    """Optuna ignores a step that was reported before, so steps count on across folds."""
    return scores.fold * epochs + scores.epoch
