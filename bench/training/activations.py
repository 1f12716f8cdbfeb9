"""What the trainable part of a network is fed: activations at the freezing boundary.

Shapes: N pictures; an activation is (N, ...) at the boundary, (N, 3, S, S) pixels at boundary 0.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from bench.data.augment import augment, strengths
from bench.data.store import DecodedStore
from bench.records import Arithmetic, Family, Policy, Store
from bench.training.arithmetic import LAYOUTS
from bench.training.frozen import FrozenPart
from bench.training.half import rounded

Indices = npt.NDArray[np.int64]


class ActivationStore(Protocol):
    """Gives the activations of pictures under a view, on the training device."""

    def read(self, pictures: Indices, *, policy: Policy, view: int) -> torch.Tensor:
        """Return the activations of `pictures`, in their order, without gradients."""
        ...


class PixelSource:
    """Decoded pictures, augmented, on the training device."""

    def __init__(
        self, images: DecodedStore, *, family: Family, seed: int, arithmetic: Arithmetic
    ) -> None:
        self.arithmetic = arithmetic
        self._images = images
        self._family: Family = family
        self._seed = seed

    @property
    def image_size(self) -> int:
        return self._images.image_size

    @property
    def identity(self) -> tuple[object, ...]:
        """What fixes the pixels besides the picture, the policy and the view."""
        return self._images.key, self._family, strengths(self._family), self._seed

    def read(self, pictures: Indices, *, policy: Policy, view: int) -> torch.Tensor:
        """Return (N, 3, S, S) float32 pixels in 0..255, in the layout of the arithmetic."""
        images_nhwc = torch.from_numpy(self._images.read(pictures)).to(self.arithmetic.device)
        pixels_nchw = augment(
            images_nhwc,
            pictures,
            family=self._family,
            policy=policy,
            view=view,
            seed=self._seed,
        )
        return pixels_nchw.contiguous(memory_format=LAYOUTS[self.arithmetic.channels_last])


class ComputedActivations:
    """The plain path: pictures are augmented and run through the frozen part each time.

    They are rounded like stored ones, so that a study's numbers do not depend on its disk.
    """

    def __init__(
        self, pixels: PixelSource, frozen: FrozenPart, boundary: int, store: Store
    ) -> None:
        self._pixels = pixels
        self._frozen = frozen
        self._boundary = boundary
        self._store = store

    def read(self, pictures: Indices, *, policy: Policy, view: int) -> torch.Tensor:
        pixels_nchw = self._pixels.read(pictures, policy=policy, view=view)
        if self._boundary == 0:
            return pixels_nchw
        activations = self._frozen.run(pixels_nchw, 0, self._boundary)
        return rounded(activations) if self._store == "half" else activations
