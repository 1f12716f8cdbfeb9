"""Duplicates that the audit finds stay on one side of every split."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.data.audit.tying import tie_duplicates
from bench.data.groups import group_numbers
from bench.data.reading import load_dataset
from bench.data.splits import make_split
from bench.records import Dataset
from tests.data.audit.planted import PlantedSet, plant

EACH = 3


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> PlantedSet:
    return plant(tmp_path_factory.mktemp("planted"), recordings=14, each=EACH, seed=1)


@pytest.fixture(scope="module")
def loose(planted: PlantedSet) -> Dataset:
    return load_dataset(planted.folder, crop="none")


@pytest.fixture(scope="module")
def tied(loose: Dataset) -> Dataset:
    return tie_duplicates(loose)


def parts_of(dataset: Dataset, *, seed: int) -> dict[str, int]:
    split = make_split(dataset, folds=3, test_fraction=0.2, seed=seed)
    return {
        dataset.pictures[index].path: k
        for k, part in enumerate((split.test, *split.folds))
        for index in part
    }


def torn(planted: PlantedSet, parts: dict[str, int]) -> int:
    return sum(len({parts[path] for path in pair}) > 1 for pair in planted.pairs)


@pytest.mark.parametrize("seed", range(3))
def test_no_split_parts_a_planted_pair(seed: int, planted, loose, tied):
    assert torn(planted, parts_of(loose, seed=seed)) > 0
    assert torn(planted, parts_of(tied, seed=seed)) == 0


def test_the_pictures_that_each_kind_of_duplicate_tied_are_counted(tied):
    counted = {one.rule: (one.pictures, one.groups) for one in tied.tied}
    assert counted == {
        "identical files": (2 * EACH, EACH),
        "copies found by the audit": (4 * EACH, 2 * EACH),  # re-encoded and brightened
        "crops found by the audit": (2 * EACH, EACH),
        "shifts in time found by the audit": (2 * EACH, EACH),
    }


def test_a_data_set_is_searched_once_and_then_read_from_the_cache(loose, tied, tmp_path: Path):
    told: list[str] = []

    first = tie_duplicates(loose, tmp_path, told.append)
    again = tie_duplicates(loose, tmp_path, told.append)

    assert told == [f"looking for duplicates among {len(loose.pictures)} pictures"]
    assert first == again == tied


def test_a_damaged_cache_is_made_again(tied, loose, tmp_path: Path):
    tie_duplicates(loose, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text('[{"first": ')

    assert tie_duplicates(loose, tmp_path) == tied


def test_pictures_without_duplicates_keep_their_fingerprint(tmp_path: Path):
    clean = load_dataset(plant(tmp_path, recordings=10, each=0, styles=2).folder, crop="none")

    assert tie_duplicates(clean).fingerprint == clean.fingerprint
    assert len(set(group_numbers(tie_duplicates(clean)))) == len(clean.pictures)
