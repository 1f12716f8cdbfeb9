"""Samplers by name, each drawing from seeds that follow from the study's seed and the trial."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from bench.errors import not_among
from bench.search.options import SAMPLERS
from bench.space import Choices, Range, SearchSpace

_STARTUP_TRIALS = 10  # drawn at random before a model of the scores is believed
_GRID_POINTS = 3  # of a range of real numbers: its ends and its middle


def make_sampler(
    name: str, space: SearchSpace, *, seed: int, trial: int, parameter: int = 0
) -> BaseSampler:
    """Build a sampler whose draws depend on the study's seed and the trial's number.

    `parameter` 0 is for what is drawn jointly; parameters that are drawn alone count from 1. One
    fixed seed would make a resumed study draw again what it drew at its start.

    Raises:
        InputError: no sampler has that name.
    """
    derived = int(np.random.SeedSequence([seed, trial, parameter]).generate_state(1)[0])
    match name:
        case "tpe":
            return _Tpe(space.distributions(), derived)
        case "gp":
            return optuna.samplers.GPSampler(
                n_startup_trials=_STARTUP_TRIALS, seed=derived, warn_independent_sampling=False
            )
        case "cmaes":
            return optuna.samplers.CmaEsSampler(
                n_startup_trials=_STARTUP_TRIALS, seed=derived, warn_independent_sampling=False
            )
        case "random":
            return optuna.samplers.RandomSampler(seed=derived)
        case "grid":
            # The study's own seed: all trials must see the grid in one order.
            return optuna.samplers.GridSampler(grid(space), seed=seed)
    raise not_among("--sampler", name, SAMPLERS)


class _Tpe(optuna.samplers.TPESampler):
    """TPE that is told its joint space, which it would otherwise infer from all trials each time.

    Every trial has every parameter, so what all have in common is the whole space.
    """

    def __init__(self, distributions: dict[str, BaseDistribution], seed: int) -> None:
        super().__init__(n_startup_trials=_STARTUP_TRIALS, seed=seed)
        self._joint = {
            name: distribution
            for name, distribution in sorted(distributions.items())
            if not distribution.single()
        }

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._joint


def grid(space: SearchSpace) -> dict[str, list[Any]]:
    """The values of each parameter that a grid search combines.

    All choices and whole numbers; of other ranges the ends and the middle (of the logarithm,
    where the range is drawn so).
    """
    return {name: _grid_values(parameter) for name, parameter in space.parameters.items()}


def grid_size(space: SearchSpace) -> int:
    """How many recipes a grid search tries before nothing is left."""
    return math.prod(len(values) for values in grid(space).values())


def _grid_values(parameter: Choices | Range) -> list[Any]:
    if isinstance(parameter, Choices):
        return list(parameter.choices)
    if parameter.whole:
        return list(range(int(parameter.low), int(parameter.high) + 1))
    spread = np.geomspace if parameter.log else np.linspace
    values = spread(parameter.low, parameter.high, _GRID_POINTS).tolist()
    # Rounding must not carry an end out of the range.
    return sorted({min(max(value, parameter.low), parameter.high) for value in values})
