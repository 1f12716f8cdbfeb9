"""What a pretrained backbone sees in pictures: its pooled features.

Shapes: N pictures, S = `Geometry.image_size` pixels on either side, F features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from bench.models.backbones import describe_backbone
from bench.models.processor import has_instructions
from bench.models.staged import build_model
from bench.models.weights import resolve_weights
from bench.records import PARTS
from bench.runtime.preprocess import Geometry

AUDIT_SIZE = 128  # px; labels are judged by features of pictures of this side
_BATCH = 16  # what its layers write still fits into the cache of a core
# Instructions that multiply in bfloat16; without them float32 is faster.
_BFLOAT16 = ("avx512_bf16", "amx_bf16")


@contextmanager
def audit_features(backbone: str) -> Iterator[PooledFeatures]:
    """Load what judges labels; torch takes one thread a call as long as the block lasts.

    Threads that share a call wait for one another after every layer, and where other work takes a
    core they spin: six times the processor's time was seen.

    Raises:
        InputError, WeightsError: as `PooledFeatures`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield PooledFeatures(backbone, image_size=AUDIT_SIZE)
    finally:
        torch.set_num_threads(before)


class PooledFeatures:
    """A pretrained backbone without its classifier, on the CPU.

    Numbers are rounded to bfloat16 where the processor is built for it: EfficientNet-Lite0 then
    takes half the time.
    """

    def __init__(self, backbone: str, *, image_size: int) -> None:
        """Load the backbone.

        Raises:
            InputError: there is no such backbone, or it takes no pictures of this size.
            WeightsError: its pretrained weights cannot be had.
        """
        spec = describe_backbone(backbone)
        source = resolve_weights(spec, pretrained=True, files={})
        model = build_model(spec, source, classes=2, image_size=image_size, seed=0).eval()
        self._model = model.to(memory_format=torch.channels_last)
        self._is_rounded = has_instructions(*_BFLOAT16)
        self.geometry: Geometry = spec.geometry(image_size=image_size, crop=None, resize="squash")

    @torch.inference_mode()
    def __call__(self, images_nhwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(N, S, S, 3) uint8 pictures -> (N, F) features."""
        # Batches of one size, but for one picture: libraries treat a lone picture differently.
        batches = np.array_split(images_nhwc, math.ceil(len(images_nhwc) / _BATCH))
        with torch.autocast("cpu", torch.bfloat16, enabled=self._is_rounded):
            features = [
                self._model.prefix(torch.from_numpy(batch).permute(0, 3, 1, 2).float(), PARTS)
                for batch in batches
            ]
        return torch.cat(features).float().numpy()
