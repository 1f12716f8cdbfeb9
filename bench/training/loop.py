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
from bench.training.recorded import Recorded, to_device

Classifier = Callable[[torch.Tensor], torch.Tensor]

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
    device = arithmetic.device
    targets = to_device(labels, device)
    records = arithmetic.graphs and schedule.parts == 1
    optimizer = torch.optim.AdamW(
        model.parameter_groups(
            learning_rate=recipe.learning_rate,
            head_lr_factor=recipe.head_lr_factor,
            weight_decay=recipe.weight_decay,
        ),
        fused=True,
        capturable=records,
    )
    rates = _Rates(optimizer, device if records else None)
    factor_at = _warmup_cosine(schedule.epochs * len(batches(train, schedule.batch_size)))
    take_step: Callable[..., torch.Tensor] = _Step(
        model,
        boundary,
        optimizer,
        nn.CrossEntropyLoss(
            weight=_class_weights(labels[train], arithmetic),
            label_smoothing=recipe.label_smoothing,
            reduction="sum",
        ),
        arithmetic,
        schedule.parts,
    )
    classify: Classifier = _Classifier(model, boundary, arithmetic)
    if records:
        take_step, classify = Recorded(take_step), Recorded(classify)

    for epoch in range(schedule.epochs):
        rng = np.random.default_rng([schedule.seed, epoch])
        model.train()
        losses = []
        todo = batches(rng.permutation(train), schedule.batch_size)
        for number, batch in enumerate(todo, start=epoch * len(todo)):
            rates.scale(factor_at(number))
            inputs = activations.read(batch, policy=recipe.augmentation, view=epoch)
            own = targets[to_device(batch, device)]
            mixed, others, shares = _mixup(inputs, own, recipe.mixup, rng)
            losses.append(take_step(mixed, own, others, shares) * len(batch))
        train_loss = float(torch.stack(losses).sum()) / len(train)
        if not math.isfinite(train_loss):
            raise NonFiniteLossError(
                f"the training loss became {train_loss} in epoch {epoch + 1} at learning rate "
                f"{recipe.learning_rate:g}: narrow the range of learning rates"
            )
        model.eval()
        predicted = (
            None
            if validation is None
            else _probabilities(classify, activations, validation, schedule.batch_size)
        )
        yield EpochOutcome(epoch, train_loss, predicted)


class _Step:
    """One step of the optimiser on one batch, its forward and backward pass included."""

    def __init__(
        self,
        model: StagedModel,
        boundary: int,
        optimizer: torch.optim.Optimizer,
        loss_of: nn.CrossEntropyLoss,
        arithmetic: Arithmetic,
        parts: int,
    ) -> None:
        self._model = model
        self._boundary = boundary
        self._optimizer = optimizer
        self._loss_of = loss_of
        self._arithmetic = arithmetic
        self._parts = parts
        self._scaler = torch.amp.GradScaler(
            arithmetic.device, enabled=arithmetic.dtype == "float16"
        )
        self._trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def __call__(
        self, mixed: torch.Tensor, own: torch.Tensor, others: torch.Tensor, shares: torch.Tensor
    ) -> torch.Tensor:
        """Take the step; return the loss, without its gradient.

        Args:
            mixed: (N, ...) activations at the boundary.
            own: (N,) classes of the pictures.
            others: (N,) classes of those that they are blended with.
            shares: (2,) of the former and of the latter.
        """
        weights = self._loss_of.weight
        total = len(own) if weights is None else weights[own].sum()
        self._optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in _parts(len(own), self._parts):
            with autocast(self._arithmetic):
                logits = self._model.suffix(mixed[part], self._boundary).float()
            loss = shares[0] * self._loss_of(logits, own[part])
            loss = (loss + shares[1] * self._loss_of(logits, others[part])) / total
            self._scaler.scale(loss).backward()
            losses.append(loss.detach())
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._trainable, _CLIP_NORM)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return torch.stack(losses).sum()


class _Rates:
    """The learning rates of an optimiser's groups, and what they are multiplied by for now.

    torch's schedulers wait for the GPU before each step when rates lie in its memory.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recorded_on: str | None) -> None:
        self._groups = optimizer.param_groups
        self._rates = [float(group["lr"]) for group in self._groups]
        if recorded_on is not None:
            # A recorded step does not see another number, only another content of its memory.
            for group, rate in zip(self._groups, self._rates, strict=True):
                group["lr"] = torch.tensor(rate, device=recorded_on)

    def scale(self, factor: float) -> None:
        for group, rate in zip(self._groups, self._rates, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate * factor)
            else:
                group["lr"] = rate * factor


class _Classifier:
    """What a network says of unaugmented activations, as logits."""

    def __init__(self, model: StagedModel, boundary: int, arithmetic: Arithmetic) -> None:
        self._model = model
        self._boundary = boundary
        self._arithmetic = arithmetic

    @torch.no_grad()
    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        """(N, ...) activations at the boundary -> (N, K) float32 logits."""
        with autocast(self._arithmetic):
            return self._model.suffix(activations, self._boundary).float()


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
    classify = _Classifier(model, boundary, arithmetic)
    return _probabilities(classify, activations, pictures, batch_size)


def _probabilities(
    classify: Classifier, activations: ActivationStore, pictures: Indices, batch_size: int
) -> npt.NDArray[np.float32]:
    parts = [
        F.softmax(classify(activations.read(batch, policy="none", view=0)), dim=1)
        for batch in batches(pictures, batch_size)
    ]
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
    inputs: torch.Tensor, own: torch.Tensor, alpha: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Blend each input with another one (mixup, Zhang et al., 2018; manifold, Verma et al., 2019).

    It acts on activations at the freezing boundary, so that frozen parts see whole pictures.
    Returns the blends, the classes of the others, and the two's shares.
    """
    device = inputs.device.type
    if alpha == 0.0:
        return inputs, own, to_device(torch.tensor([1.0, 0.0]), device)
    share = float(rng.beta(alpha, alpha))
    partner = to_device(rng.permutation(len(inputs)), device)
    blended = share * inputs + (1 - share) * inputs[partner]
    return blended, own[partner], to_device(torch.tensor([share, 1 - share]), device)


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
