"""What is planted is found: at least 95 % of it, and at most 1 % of what is reported is false."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from bench.data.audit.check import Finding, audit, findings
from bench.data.groups import load_groups
from bench.data.reading import load_dataset
from bench.records import Dataset
from tests.data.audit.planted import FRAMES, PlantedSet, draw, plant, png, recording

pytestmark = pytest.mark.slow  # most of it is drawing the pictures

LEAST_FOUND, MOST_FALSE = 0.95, 0.01
NAMES = ("march", "reel", "waltz")


def told(dataset: Dataset) -> dict[str, Finding]:
    return {finding.kind: finding for finding in findings(dataset, audit(dataset))}


def assert_found(reported: set[object], planted: set[object]) -> None:
    assert len(reported & planted) >= LEAST_FOUND * len(planted), planted - reported
    assert len(reported - planted) <= MOST_FALSE * len(reported), reported - planted


def pairs_of(found: dict[str, Finding], prefix: str) -> set[object]:
    return {
        frozenset((detail["first"], detail["second"]))
        for kind, finding in found.items()
        if kind.startswith(prefix)
        for detail in finding.details
    }


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> PlantedSet:
    return plant(tmp_path_factory.mktemp("copied"), recordings=40, each=16, seed=2)


def test_duplicates(copied: PlantedSet):
    reported = pairs_of(told(load_dataset(copied.folder, crop="none")), "duplicates")

    assert_found(reported, set(copied.pairs))


def clips(folder: Path, seeds: Iterator[int]) -> tuple[dict[str, str], set[object]]:
    """Write recordings of two overlapping clips each; every third is given two groups."""
    group_of, leaks = {}, set()
    for style, name in enumerate(NAMES):
        (folder / name).mkdir()
        for number in range(24):
            sound = recording(style, next(seeds))
            paths = [f"{name}/{number:02d}{part}.png" for part in "ab"]
            for path, start in zip(paths, (0, FRAMES // 3), strict=True):
                (folder / path).write_bytes(png(draw(sound, start)))
            leaks |= {frozenset(paths)} if number % 3 == 0 else set()
            for k, path in enumerate(paths):
                group_of[path] = f"{name}{number}" + ("ab"[k] if number % 3 == 0 else "")
    return group_of, leaks


def test_recordings_that_the_given_groups_tear(tmp_path: Path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    group_of, leaks = clips(pictures, count(500))
    with (tmp_path / "given.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "group"), *group_of.items()])
    dataset = load_groups(
        load_dataset(pictures, crop="none"), file=tmp_path / "given.csv", pattern=None
    )

    assert_found(pairs_of(told(dataset), "duplicates"), leaks)


def test_copies_under_another_label(tmp_path: Path):
    folder = plant(tmp_path, recordings=30, each=0).folder
    planted = set()
    for number in range(20):
        original = f"march/{number:05d}.png"
        copy = f"reel/again{number:02d}.jpg"
        with Image.open(folder / original) as picture:
            picture.save(folder / copy, quality=70)
        planted.add(frozenset((original, copy)))

    reported = pairs_of(told(load_dataset(folder, crop="none")), "conflicting labels")

    assert_found(reported, planted)


def test_pictures_under_the_label_of_another_class(tmp_path: Path):
    folder = plant(tmp_path, recordings=60, each=0).folder
    moved = {f"{NAMES[(k + 1) % 3]}/moved{k}.png" for k in range(6)}
    for k in range(6):
        source = folder / NAMES[k % 3] / f"{k:05d}.png"
        source.rename(folder / NAMES[(k + 1) % 3] / f"moved{k}.png")

    found = told(load_dataset(folder, crop="none"))

    suspicious = found["suspicious labels"].details
    assert_found({detail["picture"] for detail in suspicious}, moved)


@pytest.mark.parametrize("colour", ["white", "black"])
def test_a_frame_that_one_class_alone_has(colour: str, tmp_path: Path):
    folder = plant(tmp_path, recordings=12, each=0).folder
    for file in sorted((folder / "reel").iterdir()):
        with Image.open(file) as picture:
            inner = picture.resize((picture.width - 12, picture.height - 12))
        ImageOps.expand(inner, border=6, fill=colour).save(file)

    found = told(load_dataset(folder, crop="none"))

    assert [d["class"] for d in found["shortcut: frame"].details] == ["reel"]
