from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.data.sources import load_dataset
from bench.errors import DataError, InputError
from bench.models.features import pooled_features
from bench.records import Dataset
from tests.tiny import write_pictures


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder = write_pictures(tmp_path, each=12)
    (folder / "red" / "twin.png").write_bytes((folder / "red" / "002.png").read_bytes())
    return load_dataset(folder, crop="none")


def test_pictures_get_a_row_of_pretrained_features_each_and_equal_ones_the_same(dataset: Dataset):
    features = pooled_features(dataset, "efficientnet_lite0", image_size=32)

    paths = [picture.path for picture in dataset.pictures]
    assert features.shape == (37, 1280)
    assert features.dtype == np.float32
    # Two batches: libraries may round differently for another batch size.
    np.testing.assert_allclose(
        features[paths.index("red/002.png")], features[paths.index("red/twin.png")], atol=1e-4
    )
    assert features.std(axis=0).max() > 0


def test_an_unknown_backbone_and_a_picture_that_went_are_named(dataset: Dataset):
    with pytest.raises(InputError, match="efficientnet_lite0"):
        pooled_features(dataset, "efficientnet_lit0", image_size=32)
    dataset.picture_path(3).unlink()
    with pytest.raises(DataError, match=dataset.pictures[3].path):
        pooled_features(dataset, "efficientnet_lite0", image_size=32)
