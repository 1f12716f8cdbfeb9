"""Pictures are decoded once for all stages, as far as their pixels fit in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bench.data.audit.duplicates import find_duplicates
from bench.data.pixel_cache import PixelCache
from bench.data.reading import read_pictures
from bench.data.sources import list_source
from bench.data.store import DecodedStore
from bench.runtime.preprocess import Geometry, PictureError, open_rgb

SIZE = (24, 16)
BYTES = 24 * 16 * 3  # of a picture's pixels


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.*"))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_kept_picture_is_what_its_file_was_decoded_to(make_pictures, mode):
    files = files_of(make_pictures(size=SIZE, mode=mode))
    cache = PixelCache(len(files) * BYTES)
    decoded = {file: np.asarray(open_rgb(file)) for file in files}
    with ThreadPoolExecutor() as pool:
        list(pool.map(cache.keep, decoded, decoded.values()))
    for file in files:
        file.unlink()
        assert cache.open(file).mode == "RGB"
        assert np.array_equal(np.asarray(cache.open(file)), decoded[file])


def test_what_does_not_fit_is_decoded_again(make_pictures):
    first, second, *_ = files_of(make_pictures(size=SIZE))
    cache = PixelCache(2 * BYTES - 1)
    for file in (first, second):
        cache.keep(file, np.asarray(open_rgb(file)))
    first.unlink()
    cache.open(first)
    assert np.array_equal(np.asarray(cache.open(second)), np.asarray(open_rgb(second)))
    second.unlink()
    with pytest.raises(PictureError, match="no such file"):
        cache.open(second)


def test_what_was_cleared_is_decoded_again(make_pictures):
    file, *_ = files_of(make_pictures(size=SIZE))
    cache = PixelCache(BYTES)
    cache.keep(file, np.zeros((16, 24, 3), dtype=np.uint8))
    cache.clear()
    assert np.array_equal(np.asarray(cache.open(file)), np.asarray(open_rgb(file)))
    cache.keep(file, np.zeros((16, 24, 3), dtype=np.uint8))
    assert np.asarray(cache.open(file)).any(), "there is no room any more"


def test_what_was_read_is_not_decoded_again_for_duplicates_or_the_store(make_pictures, tmp_path):
    folder = make_pictures(size=SIZE, each=8)
    geometry = Geometry(image_size=12)
    expected = read_pictures(list_source(folder))
    images = DecodedStore.open(expected, geometry, tmp_path / "again").read(range(16))

    cache = PixelCache(16 * BYTES)
    dataset = read_pictures(list_source(folder), pixel_cache=cache)
    pairs = find_duplicates(expected)
    files = files_of(folder)
    for file in files:
        file.unlink()
    assert dataset == expected
    store = DecodedStore.open(dataset, geometry, tmp_path / "cache", cache)
    assert np.array_equal(store.read(range(16)), images)
    assert find_duplicates(dataset, cache) == pairs
    with pytest.raises(PictureError, match="no such file"):
        cache.open(files[0])  # pairs are compared without the pixels
