"""The rules of the demo set: its layout, its bytes, its refusals, and how hard it is."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.tree import DecisionTreeClassifier

from bench.data.demo import DemoSummary, keep_or_make_demo, make_demo
from bench.data.music import STYLES, compose
from bench.data.reading import load_dataset
from bench.data.spectrograms import SAMPLE_RATE, SPECTROGRAM_BOX
from bench.data.splits import make_split
from bench.errors import DataError, InputError
from bench.search.options import SearchOptions
from bench.statistics.intervals import LEAST_GROUPS_A_CLASS

CHANCE = 1 / len(STYLES)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def groups_of(folder: Path) -> dict[str, str]:
    with (folder / "groups.csv").open(newline="") as file:
        return {row["path"]: row["group"] for row in csv.DictReader(file)}


def make_small(folder: Path, seed: int = 0) -> DemoSummary:
    return make_demo(folder, seed=seed, pieces_per_class=1, clips_per_piece=2, processes=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "small"
    make_small(folder)
    return folder


def test_the_demo_has_at_least_six_styles_with_playable_patterns():
    assert len({style.name for style in STYLES}) >= 6
    for style in STYLES:
        drums = [pattern for kit in style.drums for pattern in kit]
        for patterns, alphabet in [
            (style.bass, "rtfso."),
            (style.chords, "x0123."),
            (style.melody, "x."),
            (drums, "xo."),
        ]:
            for pattern in patterns:
                assert len(pattern) == style.steps_per_bar, (style.name, pattern)
                assert set(pattern) <= set(alphabet), (style.name, pattern)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_a_piece_lasts_as_long_as_asked_and_is_never_silent(style):
    audio = compose(style, 4.0, np.random.default_rng(0))
    assert audio.shape == (4 * SAMPLE_RATE,)
    assert np.isfinite(audio).all()
    seconds = audio.reshape(4, SAMPLE_RATE)
    assert (np.abs(seconds).max(axis=1) > 0.01).all()


def test_the_demo_is_laid_out_like_gtzan_and_says_that_it_is_synthetic(small):
    names = [style.name for style in STYLES]
    pictures = {f"{name}/{name}{number:05d}.png" for name in names for number in (0, 1)}
    files = {f"images_original/{picture}" for picture in pictures}
    assert set(contents(small)) == {*files, "groups.csv", "demo.json"}
    for path in files:
        with Image.open(small / path) as picture:
            assert (picture.mode, picture.size) == ("RGB", (432, 288))
    assert set(groups_of(small)) == pictures
    marker = json.loads((small / "demo.json").read_text())
    assert marker["synthetic"] is True
    assert (marker["seed"], marker["styles"]) == (0, names)


def test_the_piece_is_the_group(small):
    for path, group in groups_of(small).items():
        assert group == f"{path.split('/')[0]}/piece000"


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(small, tmp_path):
    make_small(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(small)
    make_small(tmp_path / "other", seed=1)
    other, first = contents(tmp_path / "other"), contents(small)
    assert not [path for path in first if path.endswith(".png") and other[path] == first[path]]


def test_a_finished_demo_is_not_made_again(small):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    summary = make_small(small)
    assert (summary.made, summary.pieces, summary.pictures) == (False, 6, 12)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before


def test_a_demo_made_with_other_parameters_is_refused_by_name(small):
    with pytest.raises(DataError, match=r"seed 0 instead of 7.*choose another folder"):
        make_small(small, seed=7)


def test_a_search_keeps_the_demo_of_an_earlier_version_and_says_so(small):
    """A study that was begun on it needs its pictures to go on."""
    before = contents(small)
    remark = keep_or_make_demo(small)
    assert remark is not None
    assert re.search(r"pieces_per_class 1 instead of \d+.* is used as it is: remove it", remark)
    assert contents(small) == before


@pytest.mark.parametrize(
    ("name", "text"), [("holiday.jpg", "mine"), ("demo.json", '{"seed": 0}'), ("demo.json", "{")]
)
def test_a_folder_that_is_not_a_demo_is_refused_and_kept(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="choose another folder or remove this one"):
        make_small(tmp_path)
    assert contents(tmp_path) == {name: text.encode()}


@pytest.mark.parametrize(
    ("argument", "value"),
    [("seed", -1), ("pieces_per_class", 0), ("clips_per_piece", 0), ("processes", 0)],
)
def test_a_number_out_of_range_is_refused_by_name(tmp_path, argument, value):
    with pytest.raises(InputError, match=f"{argument} must be at least .* got {value}"):
        make_demo(tmp_path / "out", **{argument: value})
    assert not (tmp_path / "out").exists()


# --- at its default size --------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "whole"
    make_demo(folder, processes=2)
    return folder


@pytest.mark.slow
def test_the_test_set_holds_enough_pieces_of_each_style_for_intervals(whole):
    assert keep_or_make_demo(whole) is None
    demo = load_dataset(whole)
    split = make_split(demo, folds=3, test_fraction=SearchOptions().test_fraction, seed=0)
    groups = {(demo.pictures[k].label, demo.pictures[k].group) for k in split.test}
    pieces = Counter(label for label, _ in groups)
    assert min(pieces[label] for label in range(len(STYLES))) > LEAST_GROUPS_A_CLASS


@pytest.fixture(scope="module")
def labelled(whole) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey pixels (N, H, W), labels (N,) and groups (N,) of the whole demo."""
    groups = groups_of(whole)
    grey = []
    for path in groups:
        with Image.open(whole / "images_original" / path) as picture:
            grey.append(np.asarray(picture.convert("L").crop(SPECTROGRAM_BOX)))
    labels = np.array([path.split("/")[0] for path in groups])
    return np.stack(grey), labels, np.array(list(groups.values()))


def grouped_score(model, features, labels, groups) -> float:
    folds = StratifiedGroupKFold(n_splits=4, shuffle=True, random_state=0)
    scores = cross_val_score(
        model, features, labels, groups=groups, cv=folds, scoring="balanced_accuracy"
    )
    return float(scores.mean())


@pytest.mark.slow
def test_a_piece_depends_on_neither_the_processes_nor_the_other_pieces(whole, tmp_path):
    make_demo(tmp_path / "one", pieces_per_class=1, processes=1)
    alone = {k: v for k, v in contents(tmp_path / "one").items() if k.endswith(".png")}
    together = contents(whole)
    assert len(alone) == 12
    assert alone == {path: together[path] for path in alone}


@pytest.mark.slow
def test_small_pixels_classify_above_chance_and_far_from_perfectly(labelled):
    grey, labels, groups = labelled
    pixels = np.stack([np.asarray(Image.fromarray(image).resize((32, 32))) for image in grey])
    model = LogisticRegression(max_iter=500)
    score = grouped_score(model, pixels.reshape(len(pixels), -1) / 255.0, labels, groups)
    assert 1.6 * CHANCE < score < 0.75


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule_of_thumb", "measure"),
    [
        ("brightness", lambda grey: grey.mean(axis=(1, 2))),
        ("contrast", lambda grey: grey.std(axis=(1, 2))),
        (
            "centroid row",
            lambda grey: (grey.mean(axis=2) @ np.arange(grey.shape[1])) / grey.mean(axis=2).sum(1),
        ),
        ("change in time", lambda grey: np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))),
    ],
)
def test_no_single_number_separates_the_styles(labelled, rule_of_thumb, measure):
    grey, labels, groups = labelled
    numbers = measure(grey.astype(np.float64))[:, None]
    model = DecisionTreeClassifier(max_depth=4, min_samples_leaf=5, random_state=0)
    assert grouped_score(model, numbers, labels, groups) < 0.5, rule_of_thumb
