"""The frozen parts of a network, whose outputs are the same wherever a picture stands.

(But for attention with a single query, as some networks pool by, on some processors: the library
rounds its products by the place in the batch.)

Shapes: N pictures; an activation is (N, ...) at a boundary, (N, 3, S, S) pixels at boundary 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from bench.models.body import is_channels_last
from bench.models.staged import StagedModel
from bench.records import Arithmetic
from bench.training.arithmetic import LAYOUTS, number_format
from bench.training.fusion import CAN_FUSE, Function, fused

FROZEN_BATCH = 32


class FrozenPart:
    """Runs any frozen parts of a network in eval mode.

    On a CPU their layers are fused, where channels come last, the layout that fused layers give.
    Parts are fused one by one, whatever is asked for, so that activations at a boundary do not
    depend on where the computation began.
    """

    def __init__(self, model: StagedModel, arithmetic: Arithmetic) -> None:
        """Take a model whose weights do not change any more."""
        self._model = model.eval()
        self._arithmetic = arithmetic
        self._fused: dict[tuple[object, ...], Function] = {}  # by boundaries and kind of input

    @property
    def elements(self) -> Sequence[int]:
        """The numbers that one picture's activation has at each boundary."""
        return self._model.elements

    @torch.no_grad()
    def run(
        self, activations: torch.Tensor, start: int, stop: int, size: int = FROZEN_BATCH
    ) -> torch.Tensor:
        """Run the parts from boundary `start` to `stop`, in batches of one fixed `size`.

        Libraries choose another algorithm, with other rounding, for another batch size; with one
        size a picture's activation does not depend on the batch that it happens to stand in.

        Raises:
            ValueError: the network cannot be cut there.
        """
        outputs = [
            self._run_batch(_padded(batch, size), start, stop)[: len(batch)]
            for batch in torch.split(activations, size)
        ]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    def _run_batch(self, activations: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        fuses = self._arithmetic.device == "cpu" and self._arithmetic.channels_last and CAN_FUSE
        cuts = [at for at in self._model.boundaries if start <= at <= stop]
        if not fuses or not {start, stop} <= {*cuts}:
            return self._usual(start, stop)(activations)
        for at, end in pairwise(cuts):
            key = (at, end, activations.shape, activations.stride(), activations.dtype)
            if key in self._fused:
                activations = self._fused[key](activations)
            else:
                self._fused[key], activations = fused(self._usual(at, end), activations)
        return activations

    def _usual(self, start: int, stop: int) -> Function:
        def run(activations: torch.Tensor) -> torch.Tensor:
            with number_format(self._arithmetic):
                return self._model.between(activations, start, stop)

        return run


def _padded(batch: torch.Tensor, size: int) -> torch.Tensor:
    """A copy, for a part may begin with an operation in place; the last picture fills it up."""
    padded = torch.empty(
        (size, *batch.shape[1:]),
        dtype=batch.dtype,
        device=batch.device,
        memory_format=LAYOUTS[is_channels_last(batch)],
    )
    padded[: len(batch)] = batch
    padded[len(batch) :] = batch[-1:]
    return padded
