"""The training loop, in plain sight.

Shapes: N pictures of a batch, K classes; `pictures` are indices into the data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from bench.errors import NonFiniteLossError
from bench.models.staged import StagedModel
from bench.records import Arithmetic, Recipe
from bench.training.activations import ActivationStore, Indices
from bench.training.arithmetic import autocast

_WARMUP = 0.1  # share of all steps in which the learning rate rises
_CLIP_NORM = 1.0
_UNBALANCED = 1.5  # largest class over smallest, from which on the loss is weighted


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and in what portions a model is trained.

    `parts` cuts each batch for the forward and backward pass, whose gradients are added up: less
    memory for the same steps (but batch normalisation that updates then sees smaller batches).
    """

    epochs: int
    batch_size: int
    seed: int
    parts: int = 1


@dataclass(frozen=True, slots=True)
class EpochOutcome:
    epoch: int
    train_loss: float
    probabilities_nk: npt.NDArray[np.float32] | None  # of the validation pictures, in their order


def fit(
    model: StagedModel,
    activations: ActivationStore,
    boundary: int,
    labels: Indices,
    train: Indices,
    validation: Indices | None,
    recipe: Recipe,
    schedule: Schedule,
    arithmetic: Arithmetic,
) -> Iterator[EpochOutcome]:
    """Train what is not frozen and yield after every epoch.

    Args:
        model: frozen as the recipe says, on the training device.
        activations: of all pictures at `boundary`.
        boundary: where `activations` enter the model.
        labels: (all pictures,) class numbers.
        train: pictures to train on.
        validation: pictures to predict after every epoch; None predicts nothing.
        recipe: learning rates, regularisation and augmentation.
        schedule: epochs, batch size and seed.
        arithmetic: device and number format.

    Raises:
        NonFiniteLossError: the loss is no longer a number.
    """
    torch.manual_seed(schedule.seed)
    targets = torch.from_numpy(labels).to(arithmetic.device)
    weights = _class_weights(labels[train], arithmetic)
    loss_of = nn.CrossEntropyLoss(
        weight=weights, label_smoothing=recipe.label_smoothing, reduction="sum"
    )
    optimizer = torch.optim.AdamW(
        model.parameter_groups(
            learning_rate=recipe.learning_rate,
            head_lr_factor=recipe.head_lr_factor,
            weight_decay=recipe.weight_decay,
        ),
        fused=True,
    )
    steps = schedule.epochs * len(batches(train, schedule.batch_size))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_cosine(steps))
    scaler = torch.amp.GradScaler(arithmetic.device, enabled=arithmetic.dtype == "float16")
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]

    for epoch in range(schedule.epochs):
        rng = np.random.default_rng([schedule.seed, epoch])
        model.train()
        losses = []
        for batch in batches(rng.permutation(train), schedule.batch_size):
            inputs = activations.read(batch, policy=recipe.augmentation, view=epoch)
            mixed, partner, share = _mixup(inputs, recipe.mixup, rng)
            own = targets[torch.from_numpy(batch)]
            optimizer.zero_grad(set_to_none=True)
            total = len(batch) if weights is None else weights[own].sum()
            for part in _parts(len(batch), schedule.parts):
                with autocast(arithmetic):
                    logits = model.suffix(mixed[part], boundary).float()
                loss = share * loss_of(logits, own[part])
                loss = (loss + (1 - share) * loss_of(logits, own[partner[part]])) / total
                scaler.scale(loss).backward()
                losses.append(loss.detach() * len(batch))
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(trainable, _CLIP_NORM)
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
        train_loss = float(torch.stack(losses).sum()) / len(train)
        if not math.isfinite(train_loss):
            raise NonFiniteLossError(
                f"the training loss became {train_loss} in epoch {epoch + 1} at learning rate "
                f"{recipe.learning_rate:g}: narrow the range of learning rates"
            )
        predicted = (
            None
            if validation is None
            else predict(model, activations, boundary, validation, schedule.batch_size, arithmetic)
        )
        yield EpochOutcome(epoch, train_loss, predicted)


@torch.no_grad()
def predict(
    model: StagedModel,
    activations: ActivationStore,
    boundary: int,
    pictures: Indices,
    batch_size: int,
    arithmetic: Arithmetic,
) -> npt.NDArray[np.float32]:
    """Return (N, K) class probabilities of unaugmented pictures, in their order."""
    model.eval()
    parts = []
    for batch in batches(pictures, batch_size):
        with autocast(arithmetic):
            logits = model.suffix(activations.read(batch, policy="none", view=0), boundary)
        parts.append(F.softmax(logits.float(), dim=1))
    return torch.cat(parts).cpu().numpy()


def batches(pictures: Indices, batch_size: int) -> list[Indices]:
    """Cut into batches; a last single picture joins its neighbour.

    Batch normalisation cannot train on one picture, and convolutions take another path for it,
    with other rounding.
    """
    parts = [pictures[at : at + batch_size] for at in range(0, len(pictures), batch_size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def _parts(pictures: int, parts: int) -> list[slice]:
    """Cut a batch into slices of about the same length, none of a single picture."""
    cut = batches(np.arange(pictures), math.ceil(pictures / parts))
    return [slice(int(part[0]), int(part[-1]) + 1) for part in cut]


def _mixup(
    inputs: torch.Tensor, alpha: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Blend each input with another one (mixup, Zhang et al., 2018; manifold, Verma et al., 2019).

    It acts on activations at the freezing boundary, so that frozen parts see whole pictures.
    """
    partner = torch.arange(len(inputs), device=inputs.device)
    if alpha == 0.0:
        return inputs, partner, 1.0
    share = float(rng.beta(alpha, alpha))
    partner = torch.from_numpy(rng.permutation(len(inputs))).to(inputs.device)
    return share * inputs + (1 - share) * inputs[partner], partner, share


def _warmup_cosine(steps: int) -> Callable[[int], float]:
    warmup = max(1, round(_WARMUP * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def _class_weights(labels: Indices, arithmetic: Arithmetic) -> torch.Tensor | None:
    """Weigh classes inversely to their frequency where they are unbalanced."""
    counts = np.bincount(labels)
    if counts.max() < _UNBALANCED * counts.min():
        return None
    weights = len(labels) / (len(counts) * counts)
    return torch.from_numpy(weights).float().to(arithmetic.device)
