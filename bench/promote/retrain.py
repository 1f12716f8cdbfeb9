"""Train a chosen recipe on everything but the test set."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from bench.errors import ShortOfMemoryError
from bench.models.staged import StagedModel
from bench.promote.select import Candidate
from bench.records import Recipe
from bench.training.activations import Indices
from bench.training.folds import fold_seed
from bench.training.loop import Schedule, fit
from bench.training.memory import is_out_of_memory
from bench.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Retrained:
    """A trained model, on the CPU and in eval mode, and its mean training loss by epoch."""

    model: StagedModel
    train_curve: tuple[float, ...]


def retrain(trainer: Trainer, candidate: Candidate, *, run: int = 0) -> Retrained:
    """Train with the trial's recipe and number of epochs, on all development pictures.

    There is no validation part left, so nothing is stopped early and no epoch is picked. Each
    `run` has a seed of its own. Where memory runs out it begins again with smaller
    micro-batches, as a trial does.

    Raises:
        NonFiniteLossError: training diverged.
        ShortOfMemoryError: memory runs out even with two pictures a micro-batch.
    """
    plan, recipe = trainer.plan, candidate.recipe
    # Fold numbers behind the last one: seeds that no fold of this trial has used.
    seed = fold_seed(plan.settings.seed, candidate.trial, len(plan.split.folds) + run)
    development = np.asarray(plan.split.development, dtype=np.int64)
    micro_batches = 1
    while True:
        try:
            return _train(trainer, recipe, development, seed, micro_batches)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            more = trainer.micro_batches_after(error, recipe, micro_batches)
            if more is None:
                if not is_out_of_memory(error):
                    raise
                raise ShortOfMemoryError(
                    f"there is too little memory to train {candidate.name}: end what else runs on "
                    f"{plan.device}, then `bench promote {plan.study}` goes on"
                ) from error
            micro_batches = more
        # Not before here: the error holds the failed step and all its tensors.
        trainer.release_memory()


def _train(
    trainer: Trainer, recipe: Recipe, pictures: Indices, seed: int, micro_batches: int
) -> Retrained:
    plan = trainer.plan
    learner, activations = trainer.prepare(recipe, pictures, seed, micro_batches)
    outcomes = fit(
        learner,
        activations,
        np.asarray(plan.dataset.labels, dtype=np.int64),
        pictures,
        None,
        recipe,
        Schedule(epochs=plan.settings.epochs, batch_size=plan.settings.batch_size, seed=seed),
    )
    curve = tuple(outcome.train_loss for outcome in outcomes)
    # The trainer goes on using its own.
    return Retrained(copy.deepcopy(learner.model).cpu().eval(), curve)
