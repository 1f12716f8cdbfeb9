"""A network with what trains it, made once and begun anew for each training of its kind.

Shapes: N pictures of a batch, K classes, G groups of the optimiser's parameters, S steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from bench.models.staged import ParameterGroup, StagedModel
from bench.records import Arithmetic, Recipe
from bench.training.arithmetic import autocast
from bench.training.recorded import Recorded, to_device

_WARMUP = 0.1  # share of all steps in which the learning rate rises
_CLIP_NORM = 1.0


class Learner:
    """Trains what is not frozen of a model, step by step, with AdamW and gradient clipping.

    Recording a step takes a GPU longer than many steps do, so nothing of a recipe is part of the
    recording but what it freezes: rates, weight decay and targets are numbers in memory that each
    step reads, and `begin` sets all of them back. Folds and trials that freeze the same parts
    share one learner.
    """

    def __init__(
        self, model: StagedModel, boundary: int, arithmetic: Arithmetic, *, micro_batches: int = 1
    ) -> None:
        """Take a model that is frozen, on the training device.

        Args:
            model: what is trained; its weights are set from outside, in place.
            boundary: where activations enter it.
            arithmetic: device and number format.
            micro_batches: into how many each batch is cut for the forward and backward pass, whose
                gradients are added up: less memory for the same steps (but batch normalisation
                that updates then sees smaller batches).
        """
        self.model = model
        self.boundary = boundary
        self.arithmetic = arithmetic
        self.micro_batches = micro_batches
        records = arithmetic.graphs and micro_batches == 1
        groups = model.parameter_groups()
        in_memory = [[_InMemory.of(own) for own in group.parameters] for group in groups]
        self._optimizer = torch.optim.AdamW(
            [{"params": [own.contiguous for own in of_group]} for of_group in in_memory],
            weight_decay=0.0,  # `_rates` sets it, or decays itself
            fused=True,
            capturable=records,
        )
        self._scaler = torch.amp.GradScaler(
            arithmetic.device, enabled=arithmetic.dtype == "float16"
        )
        self._scaler_at_first = self._scaler.state_dict()
        self._in_memory = list(chain.from_iterable(in_memory))
        self._trainable = [own.parameter for own in self._in_memory]
        self._rates: _Rates = (
            _RatesInMemory(groups, self._optimizer, arithmetic.device)
            if arithmetic.device == "cuda"
            else _RatesAsNumbers(groups, self._optimizer)
        )
        # Methods that are kept make a cycle, which the garbage collector alone resolves: on a CPU
        # there is none, so that a learner's memory is free as soon as it is dropped.
        self._recorded_step = Recorded(self._step) if records else None
        self._recorded_logits = Recorded(self._logits) if records else None

    @property
    def refused(self) -> bool:
        """Whether something was to be recorded as a CUDA graph and could not be."""
        recorded = (self._recorded_step, self._recorded_logits)
        return any(function is not None and function.refused for function in recorded)

    def begin(self, recipe: Recipe, steps: int) -> None:
        """Forget all steps; the next `steps` are those of a recipe, from the model as it is now."""
        for state in self._optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(self._scaler_at_first)
        self._rates.plan(recipe, steps)

    def step(self, activations: torch.Tensor, targets_nk: torch.Tensor) -> torch.Tensor:
        """Take the next step on a batch; return its loss, good until the one after.

        Args:
            activations: (N, ...) at the boundary.
            targets_nk: (N, K) what each class counts for in each picture's cross-entropy.
        """
        self._rates.advance()
        return (self._recorded_step or self._step)(activations, targets_nk)

    @torch.no_grad()
    def probabilities(self, activations: torch.Tensor) -> torch.Tensor:
        """(N, ...) activations at the boundary -> (N, K) class probabilities."""
        return F.softmax((self._recorded_logits or self._logits)(activations), dim=1)

    def _step(self, activations: torch.Tensor, targets_nk: torch.Tensor) -> torch.Tensor:
        for own in self._in_memory:
            own.forget_gradient()
        losses = []
        for rows in _micro_batches(len(activations), self.micro_batches):
            logits_nk = self._logits(activations[rows])
            loss = F.cross_entropy(logits_nk, targets_nk[rows], reduction="sum")
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        for own in self._in_memory:
            own.hand_over_gradient()
        self._scaler.unscale_(self._optimizer)
        self._clip()
        self._rates.decay()  # on CUDA also in float16's rare steps that overflow and are left out
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return torch.stack(losses).sum()

    def _clip(self) -> None:
        if self.arithmetic.device == "cuda":
            nn.utils.clip_grad_norm_(self._trainable, _CLIP_NORM)
            return
        gradients = [own.grad for own in self._trainable if own.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # As a `GradScaler` would: the step divides what it reads, which saves a pass over memory.
        self._optimizer.grad_scale = (norm / _CLIP_NORM).clamp(min=1.0)  # type: ignore[attr-defined]

    def _logits(self, activations: torch.Tensor) -> torch.Tensor:
        with autocast(self.arithmetic):
            return self.model.suffix(activations, self.boundary).float()


@dataclass(frozen=True, slots=True, eq=False)
class _InMemory:
    """A parameter, and the same memory as a contiguous tensor.

    What is not contiguous, like a kernel in channels_last, the CPU's fused optimiser copies at each
    step, with its gradient and both moments, there and back: that takes as long as the arithmetic.
    """

    parameter: torch.Tensor
    contiguous: torch.Tensor
    order: list[int]  # of the parameter's dimensions

    @classmethod
    def of(cls, parameter: torch.Tensor) -> _InMemory:
        strides = parameter.stride()
        order = sorted(range(parameter.ndim), key=lambda dimension: -strides[dimension])
        return cls(parameter, parameter.detach().permute(order), order)

    def forget_gradient(self) -> None:
        self.parameter.grad = self.contiguous.grad = None

    def hand_over_gradient(self) -> None:
        gradient = self.parameter.grad  # None of a parameter that nothing used
        self.contiguous.grad = None if gradient is None else gradient.permute(self.order)


class _Rates(Protocol):
    """Learning rates and weight decay of each group, step by step."""

    def plan(self, recipe: Recipe, steps: int) -> None:
        """Take a recipe's rates for so many steps."""
        ...

    def advance(self) -> None:
        """Set the next step's learning rates."""
        ...

    def decay(self) -> None:
        """Let the weights decay by what the step's rates make it, unless the optimiser does so."""
        ...


class _RatesAsNumbers:
    """Learning rates and weight decay that are numbers of the optimiser's own."""

    def __init__(self, groups: Sequence[ParameterGroup], optimizer: torch.optim.Optimizer) -> None:
        self._groups = groups
        self._of_optimizer = optimizer.param_groups
        self._steps_g: Iterator[list[float]] = iter(())

    def plan(self, recipe: Recipe, steps: int) -> None:
        rates_sg, decays_g = _rates_and_decays(self._groups, recipe, steps)
        self._steps_g = iter(rates_sg.tolist())
        for group, decay in zip(self._of_optimizer, decays_g, strict=True):
            group["weight_decay"] = decay

    def advance(self) -> None:
        for group, rate in zip(self._of_optimizer, next(self._steps_g), strict=True):
            group["lr"] = rate

    def decay(self) -> None:
        pass  # it is part of the optimiser's own pass over memory


class _RatesInMemory:
    """Learning rates and weight decay that lie on the device, where a recorded step reads them.

    It does not see another number, only another content of its memory. Steps that are not recorded
    read them there too, for the numbers have to be the same.
    """

    def __init__(
        self, groups: Sequence[ParameterGroup], optimizer: torch.optim.Optimizer, device: str
    ) -> None:
        self._groups = groups
        self._steps_2g: Iterator[torch.Tensor] = iter(())
        self._now_2g = torch.ones(2, len(groups), device=device)
        for group, rate in zip(optimizer.param_groups, self._now_2g[0], strict=True):
            group["lr"] = rate

    def plan(self, recipe: Recipe, steps: int) -> None:
        rates_sg, decays_g = _rates_and_decays(self._groups, recipe, steps)
        # Decoupled from the gradient (Loshchilov and Hutter, ICLR 2019): what a step leaves.
        left_sg = 1.0 - rates_sg * decays_g
        steps_s2g = np.stack([rates_sg, left_sg], axis=1).astype(np.float32)
        self._steps_2g = iter(to_device(steps_s2g, self._now_2g.device.type))

    def advance(self) -> None:
        self._now_2g.copy_(next(self._steps_2g))

    @torch.no_grad()
    def decay(self) -> None:
        for group, left in zip(self._groups, self._now_2g[1], strict=True):
            if group.decays:
                # What nothing used stays as it is, as in torch's own steps.
                used = [parameter for parameter in group.parameters if parameter.grad is not None]
                if used:  # torch refuses an empty list
                    torch._foreach_mul_(used, left)


def _rates_and_decays(
    groups: Sequence[ParameterGroup], recipe: Recipe, steps: int
) -> tuple[npt.NDArray[np.float64], list[float]]:
    """(S, G) learning rates and (G) weight decays of each group."""
    rates_g = [
        recipe.learning_rate * (recipe.head_lr_factor if group.in_head else 1.0) for group in groups
    ]
    decays_g = [recipe.weight_decay if group.decays else 0.0 for group in groups]
    return np.outer(_warmup_cosine(steps), rates_g), decays_g


def _warmup_cosine(steps: int) -> npt.NDArray[np.float64]:
    """What the learning rate is multiplied by at each step: linear warm-up, then a cosine."""
    step, warmup = np.arange(steps), max(1, round(_WARMUP * steps))
    progress = (step - warmup) / max(1, steps - warmup)
    return np.where(step < warmup, (step + 1) / warmup, 0.5 * (1 + np.cos(math.pi * progress)))


def batches(pictures: npt.NDArray[np.int64], batch_size: int) -> list[npt.NDArray[np.int64]]:
    """Cut into batches; a last single picture joins its neighbour.

    Batch normalisation cannot train on one picture, and convolutions take another path for it,
    with other rounding.
    """
    cut = [pictures[at : at + batch_size] for at in range(0, len(pictures), batch_size)]
    if len(cut) > 1 and len(cut[-1]) == 1:
        cut[-2:] = [np.concatenate(cut[-2:])]
    return cut


def _micro_batches(pictures: int, count: int) -> list[slice]:
    """Cut a batch into micro-batches of about the same length, none of a single picture."""
    cut = batches(np.arange(pictures), math.ceil(pictures / count))
    return [slice(int(rows[0]), int(rows[-1]) + 1) for rows in cut]
