"""What a pretrained backbone sees in pictures: its pooled features."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from bench.errors import DataError
from bench.models.backbones import describe_backbone
from bench.models.body import PARTS
from bench.models.staged import build_model
from bench.models.weights import resolve_weights
from bench.records import Dataset
from bench.runtime.preprocess import PictureError, prepare

_BATCH = 32


@torch.inference_mode()
def pooled_features(dataset: Dataset, backbone: str, *, image_size: int) -> npt.NDArray[np.float32]:
    """Run all pictures through a pretrained backbone on the CPU: (N, F) pooled features.

    Raises:
        InputError: there is no such backbone, or it takes no pictures of this size.
        WeightsError: its pretrained weights cannot be had.
        DataError: a picture that could be read before can no longer be.
    """
    spec = describe_backbone(backbone)
    source = resolve_weights(spec, pretrained=True, files={})
    model = build_model(spec, source, classes=2, image_size=image_size, seed=0).eval()
    geometry = spec.geometry(image_size=image_size, crop=dataset.crop, resize="squash")
    read = partial(prepare, geometry=geometry)
    files = [dataset.picture_path(index) for index in range(len(dataset.pictures))]
    features = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), _BATCH):
            try:
                images = np.stack(list(pool.map(read, files[start : start + _BATCH])))
            except PictureError as error:
                raise DataError(f"{error}: put the picture back and check again") from error
            pixels_nchw = torch.from_numpy(images).permute(0, 3, 1, 2).float()
            features.append(model.prefix(pixels_nchw, PARTS).numpy())
    return np.concatenate(features)
