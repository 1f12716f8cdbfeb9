"""Train a chosen recipe on everything but the test set."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from bench.models.staged import StagedModel
from bench.promote.select import Candidate
from bench.training.loop import Schedule, fit
from bench.training.trainer import Trainer, fold_seed


@dataclass(frozen=True, slots=True)
class Retrained:
    """A trained model, on the CPU and in eval mode, and its mean training loss by epoch."""

    model: StagedModel
    train_curve: tuple[float, ...]


def retrain(trainer: Trainer, candidate: Candidate, *, run: int = 0) -> Retrained:
    """Train with the trial's recipe and number of epochs, on all development pictures.

    There is no validation part left, so nothing is stopped early and no epoch is picked. Each
    `run` has a seed of its own.
    """
    plan, recipe = trainer.plan, candidate.recipe
    # Fold numbers behind the last one: seeds that no fold of this trial has used.
    seed = fold_seed(plan.settings.seed, candidate.trial, len(plan.split.folds) + run)
    development = np.asarray(plan.split.development, dtype=np.int64)
    learner, activations = trainer.prepare(recipe, development, seed)
    outcomes = fit(
        learner,
        activations,
        np.asarray(plan.dataset.labels, dtype=np.int64),
        development,
        None,
        recipe,
        Schedule(epochs=plan.settings.epochs, batch_size=plan.settings.batch_size, seed=seed),
    )
    curve = tuple(outcome.train_loss for outcome in outcomes)
    # The trainer goes on using its own.
    return Retrained(copy.deepcopy(learner.model).cpu().eval(), curve)
