"""The rules of the decoded store: the pixels of `prepare`, decoded once, never trusted blindly."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.data.reading import load_dataset
from bench.data.store import DecodedStore
from bench.errors import DataError
from bench.records import Dataset
from bench.runtime.preprocess import Geometry, prepare

SQUASHED = Geometry(image_size=12)
GEOMETRIES = (
    SQUASHED,
    Geometry(image_size=16),
    Geometry(image_size=12, crop=(2, 3, 20, 15)),
    Geometry(image_size=12, resize="center-crop", crop_pct=0.9),
    Geometry(image_size=12, interpolation="bilinear"),
)


@pytest.fixture
def dataset(make_pictures) -> Dataset:
    return load_dataset(make_pictures())


def delete_pictures(dataset: Dataset) -> None:
    shutil.rmtree(dataset.root)


def folder_of(store: DecodedStore, cache: Path) -> Path:
    return cache / "decoded" / store.key


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_store_holds_what_prepare_gives(dataset, tmp_path, geometry):
    store = DecodedStore.open(dataset, geometry, tmp_path / "cache")
    assert store.image_size == geometry.image_size
    images = store.read(range(6))
    assert images.dtype == np.uint8
    for index, image in enumerate(images):
        assert np.array_equal(image, prepare(dataset.picture_path(index), geometry))


def test_pictures_come_in_the_order_asked_for_as_copies(dataset, tmp_path):
    store = DecodedStore.open(dataset, SQUASHED, tmp_path / "cache")
    images = store.read(np.array([4, 0, 4]))
    assert np.array_equal(images[0], images[2])
    assert np.array_equal(images[1], store.read([0])[0])
    images[:] = 0
    assert store.read([4]).any()


def test_a_finished_store_is_opened_without_decoding(dataset, tmp_path):
    before = DecodedStore.open(dataset, SQUASHED, tmp_path / "cache").read(range(6))
    delete_pictures(dataset)
    again = DecodedStore.open(dataset, SQUASHED, tmp_path / "cache")
    assert np.array_equal(again.read(range(6)), before)


def cut_short(folder: Path) -> None:
    array = folder / "images.u8"
    array.write_bytes(array.read_bytes()[:-1])


def alter_a_byte(folder: Path) -> None:
    array = folder / "images.u8"
    content = bytearray(array.read_bytes())
    content[1234] ^= 1
    array.write_bytes(content)


def lose_the_array(folder: Path) -> None:
    (folder / "images.u8").unlink()


def lose_the_mark(folder: Path) -> None:
    (folder / "store.json").unlink()


def tear_the_mark(folder: Path) -> None:
    mark = folder / "store.json"
    mark.write_bytes(mark.read_bytes()[:-5])


def shorten_the_mark(folder: Path) -> None:
    (folder / "store.json").write_text('{"shape": [6, 12, 12, 3], "checksums": []}')


DAMAGES = (
    cut_short,
    alter_a_byte,
    lose_the_array,
    lose_the_mark,
    tear_the_mark,
    shorten_the_mark,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_decoded_again(dataset, tmp_path, damage):
    store = DecodedStore.open(dataset, SQUASHED, tmp_path / "cache")
    before = store.read(range(6))
    damage(folder_of(store, tmp_path / "cache"))
    again = DecodedStore.open(dataset, SQUASHED, tmp_path / "cache")
    assert np.array_equal(again.read(range(6)), before)
    delete_pictures(dataset)
    assert np.array_equal(
        DecodedStore.open(dataset, SQUASHED, tmp_path / "cache").read(range(6)), before
    )


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_never_read(dataset, tmp_path, damage):
    store = DecodedStore.open(dataset, SQUASHED, tmp_path / "cache")
    damage(folder_of(store, tmp_path / "cache"))
    delete_pictures(dataset)
    with pytest.raises(DataError, match=r"cannot be read .*put the picture back"):
        DecodedStore.open(dataset, SQUASHED, tmp_path / "cache")


def test_each_geometry_has_a_store_of_its_own(dataset, tmp_path):
    keys = [DecodedStore.open(dataset, g, tmp_path / "cache").key for g in GEOMETRIES]
    assert len(set(keys)) == len(GEOMETRIES)
    delete_pictures(dataset)
    assert [DecodedStore.open(dataset, g, tmp_path / "cache").key for g in GEOMETRIES] == keys


def test_a_picture_that_has_changed_is_not_stored_as_what_it_was(dataset, tmp_path):
    shutil.copy(dataset.picture_path(0), dataset.picture_path(1))
    with pytest.raises(DataError, match=r"has changed since the search began: put the picture"):
        DecodedStore.open(dataset, SQUASHED, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("images.u8"))


def test_what_pictures_are_called_and_belong_to_does_not_matter(dataset, tmp_path):
    first = DecodedStore.open(dataset, SQUASHED, tmp_path / "cache")
    other = replace(
        dataset,
        classes=("other", "names"),
        pictures=tuple(replace(p, path=f"x/{p.path}", group="one") for p in dataset.pictures),
    )
    delete_pictures(dataset)
    assert DecodedStore.open(other, SQUASHED, tmp_path / "cache").key == first.key


def test_the_order_of_the_pictures_matters(dataset, tmp_path):
    first = DecodedStore.open(dataset, SQUASHED, tmp_path / "cache")
    turned = replace(dataset, pictures=dataset.pictures[::-1])
    second = DecodedStore.open(turned, SQUASHED, tmp_path / "cache")
    assert np.array_equal(second.read(range(6)), first.read(range(6))[::-1])


def test_other_pictures_have_a_store_of_their_own(dataset, make_pictures, tmp_path):
    other = load_dataset(make_pictures("others", seed=1))
    first = DecodedStore.open(dataset, SQUASHED, tmp_path / "cache")
    second = DecodedStore.open(other, SQUASHED, tmp_path / "cache")
    assert first.key != second.key
    assert not np.array_equal(first.read([0]), second.read([0]))
