from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from bench.data.audit.check import Finding, audit, findings, worst_pairs
from bench.data.audit.thumbnails import Features
from bench.data.groups import load_groups
from bench.data.reading import load_dataset
from bench.records import Dataset
from bench.runtime.preprocess import Geometry
from tests.data.audit.planted import draw, plant, png, recording

EACH = 10
CLASSES = ("march", "reel")
Save = Callable[[Image.Image, Path], None]


def told(dataset: Dataset) -> dict[str, Finding]:
    return {finding.kind: finding for finding in findings(dataset, audit(dataset))}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    return plant(folder, recordings=EACH, each=0, styles=len(CLASSES)).folder


@pytest.fixture
def clean(drawn: Path, tmp_path: Path) -> Path:
    """A clean set that a test may spoil."""
    return shutil.copytree(drawn, tmp_path / "set")


def rewrite(folder: Path, name: str, save: Save) -> None:
    """Save the pictures of a class in another way."""
    for file in sorted((folder / name).iterdir()):
        with Image.open(file) as picture:
            picture.load()
        file.unlink()
        save(picture, file)


def test_a_clean_set_gives_no_finding(clean: Path):
    assert told(load_dataset(clean, crop="none")) == {}


def test_broken_files_are_a_finding(clean: Path):
    (clean / "reel" / "torn.png").write_bytes(b"torn")

    (finding,) = told(load_dataset(clean, crop="none")).values()

    assert (finding.kind, finding.count) == ("broken pictures", 1)
    assert finding.what.startswith("1 file that cannot be read")
    assert finding.details[0]["picture"] == "reel/torn.png"


@pytest.mark.parametrize(
    ("named", "kinds"),
    [(0, set()), (2, {"pictures without a group"}), (2 * EACH, set())],
    ids=["no groups", "groups of some", "groups of all"],
)
def test_pictures_without_a_group_are_a_finding_where_others_have_one(
    named: int, kinds: set[str], clean: Path, tmp_path: Path
):
    dataset = load_dataset(clean, crop="none")
    groups = tmp_path / "tied.csv"
    rows = [f"{picture.path},{number}" for number, picture in enumerate(dataset.pictures)]
    groups.write_text("\n".join(["path,group", *rows[:named]]) + "\n")

    found = told(load_groups(dataset, file=groups, pattern=None))

    assert set(found) == kinds
    for finding in found.values():
        assert finding.count == len(finding.details) == 2 * EACH - 2
        assert finding.what.startswith("18 of 20 pictures have no group: each counts as")
        assert "path,group" in finding.remedy


def test_copies_with_different_labels_contradict_one_another(clean: Path):
    (clean / "reel" / "copy.png").write_bytes((clean / "march" / "00003.png").read_bytes())
    dataset = load_dataset(clean, crop="none")

    found = audit(dataset)
    by_kind = {finding.kind: finding for finding in findings(dataset, found)}

    (detail,) = by_kind["conflicting labels"].details
    assert (detail["first"], detail["second"]) == ("march/00003.png", "reel/copy.png")
    assert (detail["first_label"], detail["second_label"]) == ("march", "reel")
    assert by_kind["duplicates: identical"].count == len(worst_pairs(dataset, found)) == 1


def manifest(folder: Path, column: str, values: tuple[str, str]) -> Dataset:
    """Two clips of one recording among others, with a column of the manifest that differs."""
    sound = recording(0, 99)
    (folder / "march" / "early.png").write_bytes(png(draw(sound)))
    (folder / "march" / "late.png").write_bytes(png(draw(sound, 150)))
    values_of = {"march/early.png": values[0], "march/late.png": values[1]}
    rows = [
        f"{file.relative_to(folder).as_posix()},{file.parent.name}"
        for file in sorted(folder.glob("*/*.png"))
    ]
    lines = []
    for row in rows:
        path, _, _label = row.partition(",")
        rest = {"group": path, "split": "train"}[column]  # each a group of its own
        lines.append(f"{row},{values_of.get(path, rest)}")
    (folder / "set.csv").write_text(f"path,label,{column}\n" + "\n".join(lines) + "\n")
    return load_dataset(folder / "set.csv", crop="none")


@pytest.mark.parametrize(
    ("column", "values", "kinds"),
    [
        ("group", ("one", "one"), set()),
        ("group", ("one", "two"), {"duplicates: shifted"}),
        ("split", ("train", "test"), {"duplicates: shifted", "leaks of the given split"}),
        ("split", ("train", "train"), {"duplicates: shifted"}),
    ],
)
def test_pairs_are_findings_unless_a_group_keeps_them_together(column, values, kinds, clean: Path):
    assert set(told(manifest(clean, column, values))) == kinds


def as_larger(picture: Image.Image, file: Path) -> None:
    picture.resize((picture.width + 8, picture.height)).save(file)


def as_grey(picture: Image.Image, file: Path) -> None:
    picture.convert("L").save(file)


def as_bmp(picture: Image.Image, file: Path) -> None:
    picture.save(file.with_suffix(".bmp"))


def as_framed(picture: Image.Image, file: Path) -> None:
    width, height = picture.size
    inner = picture.resize((width - 12, height - 12))
    ImageOps.expand(inner, border=6, fill="white").save(file)


@pytest.mark.parametrize(
    ("save", "facet"),
    [(as_larger, "size"), (as_grey, "mode"), (as_bmp, "format"), (as_framed, "frame")],
)
def test_a_class_that_was_saved_in_another_way_is_a_shortcut(save: Save, facet, clean: Path):
    rewrite(clean, "reel", save)

    found = told(load_dataset(clean, crop="none"))

    assert set(found) == {f"shortcut: {facet}"}
    assert {detail["class"] for detail in found[f"shortcut: {facet}"].details} == set(CLASSES)


def test_an_odd_picture_in_each_class_is_no_shortcut(clean: Path):
    for name in CLASSES:
        file = clean / name / "00000.png"
        with Image.open(file) as picture:
            picture.load()
        as_larger(picture, file)

    assert told(load_dataset(clean, crop="none")) == {}


def test_a_rare_class_and_blank_pictures_are_told(clean: Path):
    for file in sorted((clean / "reel").iterdir())[3:]:
        file.unlink()
    (clean / "march" / "00000.png").write_bytes(png(Image.new("RGB", (336, 218))))

    found = told(load_dataset(clean, crop="none"))

    assert found["imbalance"].details[0] == {"class": "reel", "pictures": 3}
    assert found["blank pictures"].details == ({"picture": "march/00000.png"},)


def test_labels_are_judged_by_the_features_that_are_given(tmp_path: Path):
    """Redness stands in for what a backbone sees; the rest of the pictures is noise."""
    rng = np.random.default_rng(0)
    for number in range(80):
        file = tmp_path / CLASSES[number % 2] / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        pixels[..., 0] = 200 * (number % 2) + rng.integers(0, 50)
        Image.fromarray(pixels).save(file)
    (tmp_path / "march" / "4.png").rename(tmp_path / "reel" / "moved.png")
    dataset = load_dataset(tmp_path, crop="none")

    def redness(images_nhwc: np.ndarray) -> np.ndarray:
        assert images_nhwc.shape[1:] == (8, 8, 3)
        return images_nhwc.mean(axis=(1, 2)).astype(np.float32)

    found = audit(dataset, Features("redness", Geometry(image_size=8), redness))
    by_kind = {finding.kind: finding for finding in findings(dataset, found)}

    (detail,) = by_kind["suspicious labels"].details
    assert (detail["picture"], detail["predicted"]) == ("reel/moved.png", "march")
    assert "redness" in by_kind["suspicious labels"].what
