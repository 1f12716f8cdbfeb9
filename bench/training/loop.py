"""The training loop, in plain sight.

Shapes: N pictures of a batch, K classes; `pictures` are indices into the data set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bench.errors import NonFiniteLossError
from bench.records import Recipe
from bench.training.activations import ActivationStore, Indices
from bench.training.learner import Learner, batches
from bench.training.recorded import to_device

Floats = npt.NDArray[np.float64]

_UNBALANCED = 1.5  # largest class over smallest, from which on the loss is weighted


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and in what portions a model is trained."""

    epochs: int
    batch_size: int
    seed: int


@dataclass(frozen=True, slots=True)
class EpochOutcome:
    """What an epoch gave; `train_loss` is the mean over the training pictures, in nats."""

    epoch: int
    train_loss: float
    probabilities_nk: npt.NDArray[np.float32] | None  # of the validation pictures, in their order


def fit(
    learner: Learner,
    activations: ActivationStore,
    labels: Indices,
    train: Indices,
    validation: Indices | None,
    recipe: Recipe,
    schedule: Schedule,
) -> Iterator[EpochOutcome]:
    """Train what is not frozen and yield after every epoch.

    Args:
        learner: of a model that is frozen as the recipe says.
        activations: of all pictures at the learner's boundary.
        labels: (all pictures,) class numbers.
        train: pictures to train on.
        validation: pictures to predict after every epoch; None predicts nothing.
        recipe: learning rates, regularisation and augmentation.
        schedule: epochs, batch size and seed.

    Raises:
        NonFiniteLossError: the loss, or what is predicted after an epoch, is no longer a number.
    """
    torch.manual_seed(schedule.seed)
    learner.begin(recipe, schedule.epochs * len(batches(train, schedule.batch_size)))
    targets_kk, weights_k = class_targets(
        labels[train], classes=int(labels.max()) + 1, label_smoothing=recipe.label_smoothing
    )

    for epoch in range(schedule.epochs):
        rng = np.random.default_rng([schedule.seed, epoch])
        learner.model.train()
        losses = []
        for batch in batches(rng.permutation(train), schedule.batch_size):
            inputs = activations.read(batch, policy=recipe.augmentation, view=epoch)
            own = labels[batch]
            inputs, targets_nk = mixup(inputs, targets_kk[own], recipe.mixup, rng)
            targets_nk = targets_nk / weights_k[own].sum()
            targets = to_device(targets_nk.astype(np.float32), learner.arithmetic.device)
            losses.append(learner.step(inputs, targets) * len(batch))
        # Validation first: the loss is waited for, and a GPU would have nothing to do meanwhile.
        predicted = (
            None
            if validation is None
            else predict(learner, activations, validation, schedule.batch_size)
        )
        train_loss = float(torch.stack(losses).sum()) / len(train)
        diverged = None
        if not math.isfinite(train_loss):
            diverged = f"the training loss became {train_loss}"
        elif predicted is not None and not np.isfinite(predicted).all():
            # The last step's loss is that of the weights before it.
            diverged = "predictions became nan"
        if diverged is not None:
            raise NonFiniteLossError(
                f"{diverged} in epoch {epoch + 1} at learning rate {recipe.learning_rate:g}: "
                "narrow the range of learning rates"
            )
        yield EpochOutcome(epoch, train_loss, predicted)


def predict(
    learner: Learner, activations: ActivationStore, pictures: Indices, batch_size: int
) -> npt.NDArray[np.float32]:
    """Return (N, K) class probabilities of unaugmented pictures, in their order, in eval mode."""
    learner.model.eval()
    parts = [
        learner.probabilities(activations.read(batch, policy="none", view=0))
        for batch in batches(pictures, batch_size)
    ]
    return torch.cat(parts).cpu().numpy()


def mixup(
    inputs: torch.Tensor, targets_nk: Floats, alpha: float, rng: np.random.Generator
) -> tuple[torch.Tensor, Floats]:
    """Blend each input with another one (mixup, Zhang et al., 2018; manifold, Verma et al., 2019).

    It acts on activations at the freezing boundary, so that frozen parts see whole pictures.
    """
    if alpha == 0.0:
        return inputs, targets_nk
    share = float(rng.beta(alpha, alpha))
    partner = rng.permutation(len(inputs))
    others = inputs[to_device(partner, inputs.device.type)]
    return (
        share * inputs + (1 - share) * others,
        share * targets_nk + (1 - share) * targets_nk[partner],
    )


def class_targets(
    labels: Indices, *, classes: int, label_smoothing: float
) -> tuple[Floats, Floats]:
    """What each class counts for in the cross-entropy of a picture of each class.

    Classes weigh inversely to their frequency where they are unbalanced.

    Returns:
        (K, K) targets, a row for the pictures of one class, and (K,) weights that a batch's loss
        is divided by the sum of.
    """
    counts_k = np.bincount(labels, minlength=classes)  # none is 0: splits see to that
    balanced = counts_k.max() < _UNBALANCED * counts_k.min()
    weights_k = np.ones(classes) if balanced else len(labels) / (classes * counts_k)
    smoothed_kk = (1 - label_smoothing) * np.eye(classes) + label_smoothing / classes
    return smoothed_kk * weights_k, weights_k
