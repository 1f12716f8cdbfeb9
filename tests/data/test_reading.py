"""The rules of reading the pictures of a data set: decoded once, then known by their content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bench.data import reading
from bench.data.reading import load_dataset, parse_crop, read_pictures
from bench.data.sources import list_source
from bench.errors import DataError
from bench.records import Dataset
from bench.runtime.preprocess import SUFFIXES


def paths_of(dataset: Dataset) -> list[str]:
    return [picture.path for picture in dataset.pictures]


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        (".png", "RGB"),
        (".PNG", "RGBA"),
        (".png", "L"),
        (".png", "LA"),
        (".png", "P"),
        (".png", "1"),
        (".png", "I;16"),
        (".jpg", "L"),
        (".jpeg", "CMYK"),
        (".webp", "RGB"),
        (".bmp", "RGB"),
        (".tif", "I;16"),
        (".tiff", "RGB"),
    ],
)
def test_every_suffix_and_mode_is_read(make_pictures, suffix, mode):
    dataset = load_dataset(make_pictures(each=1, suffix=suffix, mode=mode))
    assert [picture.mode for picture in dataset.pictures] == [mode, mode]
    assert suffix.lower() in SUFFIXES


def test_reading_tells_how_far_it_is(make_pictures):
    told = []
    root = make_pictures(each=50)
    next((root / "dog").iterdir()).write_bytes(b"woof")
    load_dataset(root, progress=lambda done, total: told.append((done, total)))
    assert told == [(64, 100), (100, 100)]


# --- broken pictures ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "reason"),
    [("truncated", "truncated"), ("text", "of no known format"), ("empty", "of no known format")],
)
def test_a_broken_picture_is_listed_and_left_out(make_pictures, damage, reason):
    root = make_pictures(each=2)
    victim = root / "cat" / "1.png"
    whole = victim.read_bytes()
    content = {"truncated": whole[: len(whole) // 2], "text": b"a cat, honestly", "empty": b""}
    victim.write_bytes(content[damage])
    dataset = load_dataset(root)
    assert paths_of(dataset) == ["cat/0.png", "dog/0.png", "dog/1.png"]
    (broken,) = dataset.broken
    assert broken.path == "cat/1.png"
    assert broken.reason.startswith("not a picture that can be decoded")
    assert reason in broken.reason
    assert " at 0x" not in broken.reason


def test_a_picture_that_a_manifest_names_and_is_not_there_is_broken(make_pictures):
    manifest = make_pictures(each=1) / "pets.csv"
    manifest.write_text("path,label\ncat/0.png,a\ndog/0.png,b\ncat/9.png,a\n")
    dataset = load_dataset(manifest)
    assert [item.path for item in dataset.broken] == ["cat/9.png"]
    assert len(dataset.pictures) == 2


def test_a_class_whose_pictures_are_all_broken_is_refused_by_name(make_pictures):
    root = make_pictures(each=2)
    for file in (root / "dog").iterdir():
        file.write_bytes(b"woof")
    said = (
        r"no picture of dog can be read: dog/0\.png: .*; nor can 1 other file be.*mend .* or remove"
    )
    with pytest.raises(DataError, match=said):
        load_dataset(root)


def test_a_manifest_whose_paths_lead_nowhere_is_told_what_they_are_relative_to(tmp_path):
    names = [f"{label}/{number}.png" for label in ("one", "zero") for number in range(3)]
    rows = "".join(f"{name},{name.split('/')[0]}\n" for name in names)
    manifest = tmp_path / "pets.csv"
    manifest.write_text(f"path,label\n{rows}")
    with pytest.raises(DataError) as caught:
        load_dataset(manifest)
    assert str(caught.value) == (
        f"{manifest}: no picture of one, zero can be read: one/0.png: no such file (paths are "
        f"relative to {tmp_path}); nor can 5 other files be read; mend the paths and files, or "
        "take the rows out"
    )


# --- crop -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "crop"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("54,35,390,253", (54, 35, 390, 253)),
        (" 0, 0, 1, 1 ", (0, 0, 1, 1)),
    ],
)
def test_crop_is_auto_none_or_a_box(text, crop):
    assert parse_crop(text) == crop


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Auto",
        "1,2,3",
        "1,2,3,4,5",
        "5,0,5,9",
        "0,9,5,9",
        "9,0,5,9",
        "-1,0,5,9",
        "0,0,1.5,2",
        "a,b,c,d",
        "²,1,3,4",
    ],
)
def test_any_other_crop_is_refused_with_the_rule(text):
    with pytest.raises(DataError, match="--crop takes auto, none, or LEFT,TOP,RIGHT,BOTTOM"):
        parse_crop(text)


def frame_all(root: Path) -> None:
    for file in root.rglob("*.png"):
        with Image.open(file) as picture:
            framed = Image.new("RGB", (40, 30), "white")
            framed.paste(picture, (6, 5))
        framed.save(file)


def test_the_shared_frame_is_found_unless_told_otherwise(make_pictures):
    root = make_pictures(each=5)
    frame_all(root)
    assert load_dataset(root).crop == (6, 5, 30, 21)
    assert load_dataset(root, crop="none").crop is None
    assert load_dataset(root, crop=(1, 2, 40, 30)).crop == (1, 2, 40, 30)


def test_a_crop_beyond_a_picture_is_refused_with_the_picture(make_pictures):
    beyond = r"25,16 reaches beyond cat/0\.png \(24x16 pixels\), cat/1.* and 1 more: give"
    with pytest.raises(DataError, match=beyond):
        load_dataset(make_pictures(), crop=(0, 0, 25, 16))


def test_the_number_of_threads_changes_nothing(make_pictures):
    root = make_pictures(each=80)
    frame_all(root)
    (root / "cat" / "7.png").write_bytes(b"")
    alone = load_dataset(root, threads=1)
    assert alone == load_dataset(root, threads=5)
    assert alone.crop == (6, 5, 30, 21)
    assert paths_of(alone) == sorted(paths_of(alone))
    assert len(alone.pictures) == 159


# --- what was read before -------------------------------------------------------------------


def read(folder: Path, kept: Path, **options: Any) -> Dataset:
    return read_pictures(list_source(folder), kept=kept, **options)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files were decoded, an entry for each reading that decoded any."""
    counts: list[int] = []
    decode_all = reading._decode_all

    def noting(listing: Any, *others: Any) -> Any:
        counts.append(len(listing.pictures))
        return decode_all(listing, *others)

    monkeypatch.setattr(reading, "_decode_all", noting)
    return counts


def test_files_that_were_read_before_are_not_decoded_again(make_pictures, tmp_path, decoded):
    root = make_pictures(each=5)
    frame_all(root)
    (root / "dog" / "9.png").write_bytes(b"woof")
    for crop in ("auto", "none", (1, 2, 40, 30)):
        expected = load_dataset(root, crop=crop)
        decoded.clear()
        assert read(root, tmp_path / "kept", crop=crop) == expected
        assert decoded == ([11] if crop == "auto" else [])


def test_labels_and_groups_may_change_without_decoding(make_pictures, tmp_path, decoded):
    root = make_pictures(each=1)
    read(root, tmp_path / "kept")
    (root / "cat").rename(root / "ant")
    (root / "groups.csv").write_text("path,group\nant/0.png,a\n")
    expected = load_dataset(root)
    decoded.clear()
    assert read(root, tmp_path / "kept") == expected
    assert decoded == []


def alter(root: Path, _kept: Path) -> None:
    Image.new("RGB", (9, 9), "red").save(root / "cat" / "0.png")


def add(root: Path, _kept: Path) -> None:
    Image.new("RGB", (24, 16), "red").save(root / "dog" / "9.png")


def reorder(root: Path, _kept: Path) -> None:
    (root / "cat" / "0.png").rename(root / "cat" / "9.png")


def remove(root: Path, _kept: Path) -> None:
    (root / "cat" / "0.png").unlink()


def damage(_root: Path, kept: Path) -> None:
    (record,) = kept.iterdir()
    record.write_bytes(record.read_bytes()[:-9])


@pytest.mark.parametrize("change", [alter, add, reorder, remove, damage])
def test_any_change_of_the_files_or_of_what_was_kept_has_all_decoded(
    make_pictures, tmp_path, decoded, change: Callable[[Path, Path], None]
):
    root = make_pictures(each=2)
    read(root, tmp_path / "kept")
    change(root, tmp_path / "kept")
    expected = load_dataset(root)
    decoded.clear()
    assert read(root, tmp_path / "kept") == expected
    assert decoded == [len(expected.pictures)]
    read(root, tmp_path / "kept")
    assert len(decoded) == 1  # and is known from then on


def test_a_reading_with_a_file_that_is_not_there_is_not_kept(make_pictures, tmp_path, decoded):
    manifest = make_pictures(each=1) / "pets.csv"
    manifest.write_text("path,label\ncat/0.png,a\ndog/0.png,b\ncat/9.png,a\n")
    assert read(manifest, tmp_path / "kept").broken == read(manifest, tmp_path / "kept").broken
    assert decoded == [3, 3]
