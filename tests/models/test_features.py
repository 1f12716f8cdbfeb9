from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.errors import InputError
from bench.models.features import PooledFeatures

SIDE = 32


@pytest.fixture
def images_nhwc() -> np.ndarray:
    """Pictures for two batches, of which the last is the first again."""
    images = np.random.default_rng(0).integers(0, 256, (37, SIDE, SIDE, 3), dtype=np.uint8)
    images[-1] = images[0]
    return images


def test_pictures_get_a_row_of_pretrained_features_each_and_equal_ones_the_same(images_nhwc):
    features = PooledFeatures("efficientnet_lite0", image_size=SIDE)(images_nhwc)

    assert features.shape == (37, 1280)
    assert features.dtype == np.float32
    # Two batches: libraries may round differently for another batch size.
    np.testing.assert_allclose(features[0], features[-1], atol=1e-2)
    assert features.std(axis=0).max() > 0.1


def test_features_are_the_same_in_either_number_format_but_for_rounding(images_nhwc, monkeypatch):
    def features_where(is_supported: bool) -> np.ndarray:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": is_supported})
        return PooledFeatures("efficientnet_lite0", image_size=SIDE)(images_nhwc)

    exact, rounded = features_where(False), features_where(True)

    assert (exact != rounded).any()
    assert np.corrcoef(exact.ravel(), rounded.ravel())[0, 1] > 0.99


def test_an_unknown_backbone_is_named():
    with pytest.raises(InputError, match="efficientnet_lite0"):
        PooledFeatures("efficientnet_lit0", image_size=SIDE)
