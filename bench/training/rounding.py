"""What rounding stored activations to 16 bits changes, measured on the user's own pictures.

Shapes: N pictures, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bench.records import PARTS, Recipe, StudyPlan
from bench.training.activations import Indices
from bench.training.arithmetic import autocast
from bench.training.half import rounded
from bench.training.networks import StudyNetworks
from bench.training.probe import fit_probe

_PICTURES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationRounding:
    """The error of rounding one backbone's activations.

    `relative_rms`: by boundary, the root mean square of the differences over that of the
    activations. `probability`: the largest change of any class probability, by any boundary.
    """

    backbone: str
    pictures: int
    relative_rms: dict[int, float]
    probability: float

    def __str__(self) -> str:
        if not any(self.relative_rms.values()):
            return (
                f"Stored activations (--store half): those of {self.backbone} have 16 bits as "
                "they are, so nothing is rounded and nothing changes."
            )
        errors = ", ".join(
            f"{100 * error:.2g} % at depth {boundary}"
            for boundary, error in self.relative_rms.items()
        )
        return (
            f"Stored activations of {self.backbone} are rounded to 16 bits (--store half): "
            f"relative RMS error {errors}; on {self.pictures} pictures no class probability of "
            f"the network with a probed head changes by more than {self.probability:.2g}."
        )


@torch.no_grad()
def measure_rounding(networks: StudyNetworks, backbone: str) -> ActivationRounding:
    """Round the activations of some development pictures, and see what comes of it.

    The head is fitted to these very pictures, because a random one hardly tells them apart.
    """
    plan, pixels = networks.plan, networks.pixels(backbone)
    pictures = _some_of_each_class(plan)
    labels = np.asarray(plan.dataset.labels, dtype=np.int64)[pictures]
    model = networks.model(Recipe(backbone=backbone, freeze_depth=PARTS), plan.settings.seed).eval()
    frozen = networks.frozen_part(backbone)
    at, activations = 0, pixels.read(pictures, policy="none", view=0)
    exact = {}
    for boundary in sorted({model.boundary(depth) for depth in range(1, PARTS + 1)} - {0}):
        activations = frozen.run(activations, at, boundary)
        exact[boundary], at = activations, boundary
    features = exact[PARTS].to("cpu", torch.float32, copy=True)
    fit_probe(features.numpy(), labels).start(model.classifier)

    def probabilities_nk(activations: torch.Tensor, boundary: int) -> torch.Tensor:
        with autocast(pixels.arithmetic):
            return model.suffix(activations, boundary).float().softmax(dim=1)

    relative_rms, changes = {}, []
    for boundary, values in exact.items():
        stored = rounded(values)
        scale = values.double().square().mean()
        error = (stored.double() - values.double()).square().mean()
        relative_rms[boundary] = float((error / scale).sqrt()) if scale else 0.0
        change = probabilities_nk(stored, boundary) - probabilities_nk(values, boundary)
        changes.append(float(change.abs().max()))
    return ActivationRounding(
        backbone=backbone,
        pictures=len(pictures),
        relative_rms=relative_rms,
        probability=max(changes),
    )


def _some_of_each_class(plan: StudyPlan) -> Indices:
    """Development pictures, as many of each class as make up a batch, and at least two."""
    development = np.asarray(plan.split.development, dtype=np.int64)
    labels = np.asarray(plan.dataset.labels, dtype=np.int64)[development]
    each = max(2, _PICTURES // len(plan.dataset.classes))
    return np.concatenate([development[labels == label][:each] for label in np.unique(labels)])
