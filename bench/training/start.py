"""Where a training begins: normalisations that fit the pictures, and a head that fits both.

Batch normalisation that updates takes each batch's own statistics from the first step on. Those of
spectrograms are far from those of the photographs that the weights were trained on, so all
features shift, and a head fitted on the old ones starts worse than a random one. The statistics
are therefore gathered first, in one pass over the training pictures (AdaBN, Li et al., 2016), and
the head is a linear probe of what comes out then.

Shapes: N pictures, F pooled features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from bench.models.staged import StagedModel
from bench.records import PARTS, Arithmetic
from bench.training.activations import ActivationStore, Indices
from bench.training.arithmetic import autocast
from bench.training.learner import batches
from bench.training.probe import LinearProbe, fit_probe

# The share of the probe's logits that training begins with. A probe knows the pictures that it was
# fitted to nearly by heart: its loss on them says that nothing is left to learn, and the parts
# before the classifier hardly move. On 480 real pictures (folds of whole recordings, three seeds),
# shares of 1, 0.5, 0.25 and 0.1 gave 0.352, 0.384, 0.402 and 0.404 balanced accuracy at depth 4;
# at depth 5, where the classifier alone is trained, 1 and 0.25 both gave 0.343.
_SHARE_OF_LOGITS = 0.25


@dataclass(frozen=True, slots=True)
class Start:
    """A head, and the running mean and variance of each batch normalisation that updates."""

    probe: LinearProbe
    statistics: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @torch.no_grad()
    def apply(self, model: StagedModel) -> None:
        """Begin from here, with a model that is frozen as the one was that this was found with."""
        self.probe.start(model.classifier, _SHARE_OF_LOGITS)
        own = _statistics(model.updating_norms())
        for (mean, variance), (own_mean, own_variance) in zip(self.statistics, own, strict=True):
            own_mean.copy_(mean)
            own_variance.copy_(variance)


@torch.no_grad()
def find_start(
    model: StagedModel,
    activations: ActivationStore,
    boundary: int,
    labels: Indices,
    train: Indices,
    batch_size: int,
    arithmetic: Arithmetic,
) -> Start:
    """Adapt the normalisations to the training pictures, unaugmented, and fit a head.

    Args:
        model: frozen as a recipe says; its normalisations that update are changed.
        activations: of all pictures at `boundary`.
        boundary: where `activations` enter the model.
        labels: (all pictures,) class numbers.
        train: pictures to begin with.
        batch_size: as in training, whose batches it should foretell.
        arithmetic: device and number format.
    """
    model.eval()
    norms = model.updating_norms()
    # Pictures may lie sorted by class, and a batch of one class has other statistics.
    order = np.random.default_rng(0).permutation(train) if norms else train
    features: torch.Tensor | None = None
    done = 0
    with _averaging(norms):
        for batch in batches(order, batch_size):
            inputs = activations.read(batch, policy="none", view=0)
            with autocast(arithmetic):
                pooled = model.between(inputs, boundary, PARTS)
            if features is None:
                features = torch.empty(len(train), pooled.shape[1])
            features[done : done + len(batch)] = pooled
            done += len(batch)
    assert features is not None
    probe = fit_probe(features.numpy(), labels[order])
    return Start(probe, tuple((mean.clone(), var.clone()) for mean, var in _statistics(norms)))


@contextmanager
def _averaging(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let normalisations forget their statistics and average those of all batches they see."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _statistics(norms: Sequence[_BatchNorm]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for norm in norms:
        assert norm.running_mean is not None and norm.running_var is not None
        yield norm.running_mean, norm.running_var
