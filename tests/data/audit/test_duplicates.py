from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bench.data.audit.duplicates import find_duplicates, search_duplicates
from bench.data.audit.thumbnails import make_thumbnails
from bench.data.reading import load_dataset
from bench.errors import DataError
from bench.records import Dataset, Pair
from tests.data.audit.planted import FRAMES, PLANTS, PlantedSet, draw, plant, png, recording

EACH = 5
KINDS = {
    "identical": "identical",
    "re-encoded": "copy",
    "brightened": "copy",
    "cropped": "cropped",
    "shifted": "shifted",
}


def paths_of(dataset: Dataset, pair: Pair) -> frozenset[str]:
    return frozenset(dataset.pictures[index].path for index in (pair.first, pair.second))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> PlantedSet:
    return plant(tmp_path_factory.mktemp("planted"), recordings=14, each=EACH)


@pytest.fixture(scope="module")
def dataset(planted: PlantedSet) -> Dataset:
    return load_dataset(planted.folder, crop="none")


@pytest.fixture(scope="module")
def found(dataset: Dataset) -> dict[frozenset[str], Pair]:
    return {paths_of(dataset, pair): pair for pair in find_duplicates(dataset)}


@pytest.mark.parametrize("kind", PLANTS)
def test_planted_duplicates_of_every_kind_are_found_and_named(kind, planted, found):
    of_kind = [pair for pair, how in planted.pairs.items() if how == kind]

    assert len(of_kind) == EACH
    assert [found[pair].kind for pair in of_kind if pair in found] == [KINDS[kind]] * EACH


def test_nothing_else_is_taken_for_a_duplicate(planted, found):
    assert set(found) - set(planted.pairs) == set()


def test_pairs_stand_in_order_and_correlate(dataset, found):
    assert all(pair.first < pair.second for pair in found.values())
    assert all(0.5 < pair.correlation <= 1 for pair in found.values())


def test_a_clean_set_of_one_style_gives_no_pair(tmp_path: Path):
    clean = plant(tmp_path, recordings=40, each=0, styles=1)

    assert find_duplicates(load_dataset(clean.folder, crop="none")) == ()


def write(folder: Path, pictures: dict[str, bytes]) -> Dataset:
    for path, data in pictures.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return load_dataset(folder, crop="none")


def test_the_shift_says_how_much_later_the_content_stands_in_the_second(tmp_path: Path):
    sound = recording(0, 1)
    others = {f"a/{k}.png": png(draw(recording(0, k))) for k in (5, 6)}
    late = FRAMES // 4
    dataset = write(
        tmp_path, {**others, "a/0.png": png(draw(sound, late)), "a/1.png": png(draw(sound))}
    )

    (pair,) = find_duplicates(dataset)

    assert (pair.kind, paths_of(dataset, pair)) == ("shifted", {"a/0.png", "a/1.png"})
    assert pair.shift == pytest.approx(late / FRAMES, abs=0.01)


def test_of_many_identical_files_each_copy_is_paired_with_the_first(tmp_path: Path):
    same, other = png(draw(recording(0, 1))), png(draw(recording(1, 2)))
    dataset = write(tmp_path, {"a/0.png": same, "a/1.png": same, "b/2.png": same, "b/3.png": other})

    pairs = find_duplicates(dataset)

    assert [(p.first, p.second, p.kind) for p in pairs] == [
        (0, 1, "identical"),
        (0, 2, "identical"),
    ]


def test_pictures_that_show_nothing_are_named_and_not_paired(tmp_path: Path):
    def plain(grey: int) -> bytes:
        return png(Image.new("RGB", (60, 40), (grey,) * 3))

    dataset = write(tmp_path, {"a/0.png": plain(9), "a/1.png": plain(10), "b/2.png": plain(11)})

    search = search_duplicates(dataset, make_thumbnails(dataset))

    assert (search.pairs, search.blank) == ((), (0, 1, 2))


def test_a_picture_that_went_in_the_meantime_is_named(tmp_path: Path):
    dataset = write(tmp_path, {"a/0.png": png(draw(recording(0, 1)))})
    (tmp_path / "a" / "0.png").unlink()

    with pytest.raises(DataError, match=r"0\.png"):
        find_duplicates(dataset)
