"""Whether probabilities can be believed: what each model's temperature does to them."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records import CalibrationEffect, Estimate, StudyReport, ranked
from reports.scores import NOTHING, percent, plain, reasons, signed, with_interval
from reports.table import Table, caption_of


def calibration(report: StudyReport) -> Table:
    """What each model's temperature does to its probabilities: three scores a set of pictures."""
    rows: list[tuple[str, ...]] = []
    estimates: list[Estimate] = []
    refusals = []
    for model in ranked(report.models):
        told = model.calibration
        if told is None:
            refusals.append(f"{model.name} was promoted before graphs had a temperature.")
            continue
        if told.why_none is not None:
            refusals.append(f"{model.name} ships with temperature 1: {told.why_none}.")
        for pictures, temperature, effect in (
            ("test", f"{model.temperature:.3f}", told.test),
            ("out of fold", _temperature_range(told.fold_temperatures), told.out_of_fold),
        ):
            if effect is not None:
                rows += _calibration_rows(model.name, pictures, temperature, effect)
                estimates += [effect.after.log_loss, effect.log_loss_change]
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
            "Test: the shipped file on the locked test set; its temperature is inside the graph, "
            "and before is what the file would say without. Out of fold: each fold's pictures "
            "with the temperature that was fitted on all other folds.",
            "Brackets hold 95 % intervals by the same bootstrap as everywhere; changes are paired "
            "on the same pictures.",
            "ECE: expected calibration error of the predicted class, in 15 bins of equal width. "
            "It is never negative, so chance alone lifts it, the more the fewer the pictures; the "
            "last column is the mean and the 95 % range that the probabilities after it would "
            "show if they were right, with independent pictures. An ECE within that range is no "
            "evidence of bad calibration. It has no interval, because resampling would lift it "
            "once more.",
            *reasons(estimates),
            *refusals,
        ),
    )


def _calibration_rows(
    model: str, pictures: str, temperature: str, effect: CalibrationEffect
) -> list[tuple[str, ...]]:
    before, after = effect.before, effect.after
    head = (model, f"{pictures} ({effect.pictures})", temperature)
    ece_change = f"{100 * (after.ece - before.ece):+.1f}"
    return [
        (
            *head,
            "log-loss, nats",
            plain(before.log_loss),
            plain(after.log_loss),
            signed(effect.log_loss_change),
            NOTHING,
        ),
        (
            *head,
            "Brier score, 0..2",
            plain(before.brier),
            plain(after.brier),
            signed(effect.brier_change),
            NOTHING,
        ),
        (
            *head,
            "ECE, %",
            percent(before.ece),
            percent(after.ece),
            ece_change,
            with_interval(after.ece_by_chance),
        ),
    ]


def _temperature_range(temperatures: Sequence[float]) -> str:
    """The lowest and highest of the folds' temperatures."""
    return f"{min(temperatures):.3f} to {max(temperatures):.3f}" if temperatures else NOTHING
