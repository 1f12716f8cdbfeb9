"""Figures are PNG files of a readable width, the same for the same record."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib import pyplot
from PIL import Image

from bench.records import StudyReport
from reports import figures
from reports.findings import mistakes, right_answers
from tests.reports.conftest import with_temperature

MakeReport = Callable[..., StudyReport]


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


@pytest.mark.parametrize("total", [2, 20, 61])
def test_a_confusion_matrix_is_at_most_900_pixels_wide(make_report: MakeReport, total: int) -> None:
    report = make_report(names=tuple(f"class {k}" for k in range(total)), trials=3)
    assert opened(figures.confusion(report, report.models[1])).width <= 900


def test_class_names_are_text_whatever_they_hold(make_report: MakeReport) -> None:
    # An unbalanced formula, a script that the font lacks, and a line break.
    report = make_report(names=("$\\frac{1}$ a$", "日本語", "two\nlines"), trials=3)
    assert opened(figures.confusion(report, report.models[1])).format == "PNG"


@pytest.mark.parametrize("draw", [figures.history, figures.parameters])
def test_the_same_record_gives_the_same_bytes(
    make_report: MakeReport, draw: Callable[[StudyReport], bytes]
) -> None:
    report = make_report(trials=8)
    png = draw(report)
    assert png == draw(report)
    assert "Software" not in opened(png).info


def test_a_label_is_drawn_into_the_picture(make_report: MakeReport) -> None:
    plain = make_report(trials=3)
    labelled = replace(plain, dataset=replace(plain.dataset, synthetic=True))
    assert figures.history(plain) != figures.history(labelled)


def test_history_needs_no_times_and_no_complete_trial(make_report: MakeReport) -> None:
    report = make_report(trials=3)
    pruned = replace(report.trials[1], finished_s=None)
    assert opened(figures.history(replace(report, trials=(pruned,)))).width == 900


def test_a_reliability_diagram_shows_before_beside_after(make_report: MakeReport) -> None:
    plain = make_report(per_class=80)
    scaled = with_temperature(plain, 2.0, None)
    png = figures.reliability(scaled, scaled.models[1])
    assert opened(png).width <= 900
    assert png != figures.reliability(plain, plain.models[1])


@pytest.mark.parametrize(("with_trial", "with_retraining"), [(True, False), (False, True)])
def test_curves_show_what_there_is(
    make_report: MakeReport, with_trial: bool, with_retraining: bool
) -> None:
    report = make_report(trials=3)
    model = report.models[1]
    model = model if with_retraining else replace(model, train_curve=())
    trial = report.trials[2] if with_trial else None
    assert opened(figures.curves(report, model, trial)).width <= 900


def test_thumbnails_are_cropped_as_in_training(make_report: MakeReport) -> None:
    report = make_report(pictures_on_disk=True)
    cropped = replace(report, dataset=replace(report.dataset, crop=(10, 10, 40, 30)))
    ((_, image), *_) = figures.thumbnails(cropped, right_answers(report.models[1]))
    assert image.size == (30, 20)


def test_pictures_that_cannot_be_read_are_passed_over(make_report: MakeReport) -> None:
    report = make_report(pictures_on_disk=True, winner_accuracy=0.2)
    wrong = mistakes(report.models[1])
    report.dataset.picture_path(wrong[0].index).unlink()
    report.dataset.picture_path(wrong[1].index).write_bytes(b"no picture")
    shown = figures.thumbnails(report, wrong)
    assert [example for example, _ in shown] == list(wrong[2:14])


def test_a_gallery_is_drawn_for_any_shape_of_picture(
    make_report: MakeReport, tmp_path: Path
) -> None:
    report = make_report(trials=3)
    answers = mistakes(report.models[1])
    shapes = [(240, 20), (20, 240)]
    chosen = [(answers[0], Image.new("RGB", shape)) for shape in shapes]
    assert opened(figures.gallery(report, chosen)).width <= 900


def test_drawing_leaves_no_figure_behind(make_report: MakeReport) -> None:
    report = make_report(trials=3)
    figures.confusion(report, report.models[1])
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blues", "blues"),
        ("two\nlines", "two lines"),
        ("a very long class name, version one", "a very long…ersion one"),
    ],
)
def test_a_long_name_keeps_both_ends(name: str, expected: str) -> None:
    assert figures.short(name) == expected
    assert len(expected) <= figures.NAME_CHARACTERS


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1e-5, 1e-2, (1e-5, 1e-4, 1e-3, 1e-2)),
        (2e-5, 4e-3, (1e-4, 1e-3)),
        (2e-5, 4e-4, (3e-5, 1e-4, 3e-4)),
        (1e-4, 6e-4, (1e-4, 3e-4)),
        (1.1e-4, 5.2e-4, (2e-4, 5e-4)),
        (1.12e-4, 1.31e-4, (1.12e-4, 1.31e-4)),
        (1e-9, 1.0, (1e-9, 1e-7, 1e-5, 1e-3, 1e-1)),
    ],
)
def test_a_logarithmic_axis_has_two_to_five_ticks_whatever_its_range(
    low: float, high: float, ticks: tuple[float, ...]
) -> None:
    assert figures.log_ticks(low, high) == ticks


def test_the_gallery_grows_with_its_pictures_up_to_four_a_row(make_report: MakeReport) -> None:
    report = make_report(trials=3)
    answer, *_ = mistakes(report.models[1])
    square = Image.new("RGB", (80, 80))
    sizes = {
        count: opened(figures.gallery(report, [(answer, square)] * count)).size
        for count in (1, 2, 4, 12)
    }
    assert [width for width, _ in sizes.values()] == [450, 450, 900, 900]
    assert sizes[12][1] > 2 * sizes[4][1]


def test_the_gallery_names_the_files(make_report: MakeReport) -> None:
    report = make_report(trials=3)
    chosen = [(mistakes(report.models[1])[0], Image.new("RGB", (80, 80)))]
    pictures = tuple(replace(p, path=f"elsewhere/{p.path}") for p in report.dataset.pictures)
    renamed = replace(report, dataset=replace(report.dataset, pictures=pictures))
    assert figures.gallery(report, chosen) != figures.gallery(renamed, chosen)
