"""What the trainable part of a network is fed: activations at the freezing boundary.

Shapes: N pictures; an activation is (N, ...) at the boundary, (N, 3, S, S) pixels at boundary 0.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from bench.data.augment import augment
from bench.data.store import DecodedStore
from bench.models.staged import StagedModel
from bench.records import Arithmetic, Family, Policy
from bench.training.arithmetic import autocast

Indices = npt.NDArray[np.int64]


class ActivationStore(Protocol):
    """Gives the activations of pictures under a view, on the training device."""

    def read(self, pictures: Indices, *, policy: Policy, view: int) -> torch.Tensor:
        """Return the activations of `pictures`, in their order, without gradients."""
        ...


class ComputedActivations:
    """The plain path: decoded pictures are augmented and run through the frozen part each time."""

    def __init__(
        self,
        images: DecodedStore,
        model: StagedModel,
        boundary: int,
        *,
        family: Family,
        seed: int,
        arithmetic: Arithmetic,
    ) -> None:
        self._images = images
        self._model = model
        self._boundary = boundary
        self._family: Family = family
        self._seed = seed
        self._arithmetic = arithmetic

    @torch.no_grad()
    def read(self, pictures: Indices, *, policy: Policy, view: int) -> torch.Tensor:
        images_nhwc = torch.from_numpy(self._images.read(pictures)).to(self._arithmetic.device)
        pixels_nchw = augment(
            images_nhwc,
            pictures,
            family=self._family,
            policy=policy,
            view=view,
            seed=self._seed,
        )
        if self._arithmetic.channels_last:
            pixels_nchw = pixels_nchw.contiguous(memory_format=torch.channels_last)
        else:
            pixels_nchw = pixels_nchw.contiguous()
        with autocast(self._arithmetic):
            return self._model.prefix(pixels_nchw, self._boundary)
