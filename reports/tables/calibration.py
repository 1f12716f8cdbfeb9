"""Whether probabilities can be believed: what each model's temperature does to them."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records import CalibrationEffect, StudyReport, ranked
from reports.scores import NOTHING, Marks, loss_cell, loss_change_cell, percent, percent_cell
from reports.table import Table, caption_of


def calibration(report: StudyReport) -> Table:
    """What each model's temperature does to its probabilities: three scores a set of pictures."""
    rows: list[tuple[str, ...]] = []
    marks = Marks()
    refusals = []
    for model in ranked(report.models):
        told = model.calibration
        if told is None:
            refusals.append(f"{model.name} was promoted before graphs had a temperature.")
            continue
        if told.why_none is not None:
            refusals.append(f"{model.name} ships with temperature 1: {told.why_none}.")
        for pictures, temperature, effect in (
            ("test", f"{model.temperature:.2f}", told.test),
            ("out of fold", _temperature_range(told.fold_temperatures), told.out_of_fold),
        ):
            if effect is not None:
                rows += _calibration_rows(model.name, pictures, temperature, effect, marks)
    return Table(
        caption=caption_of(report, "Calibration, before and after the temperature"),
        headers=(
            "model",
            "pictures",
            "temperature",
            "measure, smaller is better",
            "before",
            "after",
            "change",
            "by chance, if calibrated",
        ),
        rows=tuple(rows),
        footnotes=(
            *marks.notes,
            "Test: the shipped file on the locked test set; its temperature is inside the graph, "
            "and before is what the file would say without. Out of fold: each fold's pictures "
            "with the temperature that was fitted on all other folds.",
            "Changes are paired on the same pictures.",
            "ECE: expected calibration error of the predicted class, in 15 bins of equal width. "
            "Chance alone lifts it above 0, the more the fewer the pictures: the last column is "
            "the mean and the 95 % range that perfectly calibrated probabilities would show. An "
            "ECE within that range is no evidence of bad calibration. It has no interval, because "
            "resampling would lift it once more.",
            *refusals,
        ),
    )


def _calibration_rows(
    model: str, pictures: str, temperature: str, effect: CalibrationEffect, marks: Marks
) -> list[tuple[str, ...]]:
    before, after = effect.before, effect.after
    head = (model, f"{pictures} ({effect.pictures})", temperature)
    ece_change = f"{100 * (after.ece - before.ece):+.1f}"
    return [
        (
            *head,
            "log-loss, nats",
            loss_cell(before.log_loss, marks),
            loss_cell(after.log_loss, marks),
            loss_change_cell(effect.log_loss_change, marks),
            NOTHING,
        ),
        (
            *head,
            "Brier score, 0..2",
            loss_cell(before.brier, marks),
            loss_cell(after.brier, marks),
            loss_change_cell(effect.brier_change, marks),
            NOTHING,
        ),
        (
            *head,
            "ECE, %",
            percent(before.ece),
            percent(after.ece),
            ece_change,
            percent_cell(after.ece_by_chance, marks),
        ),
    ]


def _temperature_range(temperatures: Sequence[float]) -> str:
    """The lowest and highest of the folds' temperatures."""
    return f"{min(temperatures):.2f} to {max(temperatures):.2f}" if temperatures else NOTHING
