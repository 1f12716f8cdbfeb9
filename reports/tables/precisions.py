"""Each model in each precision: what it costs in answers, what it gains in time and size."""

from __future__ import annotations

from bench.records import ModelRecord, StudyReport, VariantCheck, VariantRecord, ranked
from bench.words import counted
from reports.measured import latest
from reports.scores import NOTHING, percent
from reports.table import Table, caption_of, ms


def variants(report: StudyReport) -> Table:
    """Each model in each precision: what it costs in answers, what it gains in time and size."""
    rows: list[tuple[str, ...]] = []
    for model in ranked(report.models):
        if not model.variants:
            continue
        own = latest(report.latencies, model.architecture_key, "cpu")
        float_cells = ("yes", *(NOTHING,) * 7)
        rows.append(
            (
                model.name,
                "fp32",
                *float_cells,
                percent(model.test.balanced_accuracy),
                f"{model.size_bytes / 1e6:.1f}",
                ms(own.p50_ms) if own else "not measured",
                NOTHING,
            )
        )
        rows += [_variant_cells(report, model, variant) for variant in model.variants]
    footnotes = [
        "Difference, lost and gained answers and the same top class: against the fp32 file on "
        "development pictures of other folds than those used to calibrate. The fp32 file was "
        "trained on them, so this tells how alike the two answer, not how good they are; the "
        "test column does, and has not been used to choose anything. The gate looks at the "
        "difference as it is, whatever its interval; one answer is worth so much in the class of "
        "the fewest pictures.",
        "A refused file has been removed.",
    ]
    refusals = [
        f"{model.name} {variant.precision} is not offered: {variant.refused}."
        for model in ranked(report.models)
        for variant in model.variants
        if variant.refused is not None
    ]
    return Table(
        caption=caption_of(report, "Precisions"),
        headers=(
            "model",
            "precision",
            "offered",
            "calibration",
            "layers left in float32",
            "pictures compared",
            "same top class, %",
            "balanced accuracy against fp32, points (95 %)",
            "answers lost / gained",
            "one answer, points",
            "test balanced accuracy, %",
            "file, MB",
            "p50 at batch 1, ms",
            "times faster than fp32",
        ),
        rows=tuple(rows),
        footnotes=(*footnotes, *refusals),
    )


def _difference(check: VariantCheck) -> str:
    interval = check.interval_points
    sure = "" if interval is None else f" ({interval[0]:+.2f} to {interval[1]:+.2f})"
    return f"{check.difference_points:+.2f}{sure}"


def _calibration(variant: VariantRecord) -> str:
    if not variant.method:
        return NOTHING
    return f"{variant.method}, {counted(variant.calibration_pictures, 'picture')}"


def _variant_cells(
    report: StudyReport, model: ModelRecord, variant: VariantRecord
) -> tuple[str, ...]:
    check = variant.check
    device = "cuda" if variant.precision == "fp16" else "cpu"
    own = latest(report.latencies, model.variant_key(variant), device)
    fp32 = latest(report.latencies, model.architecture_key, device)
    compared = (
        (
            str(check.pictures),
            percent(check.top1_agreement),
            _difference(check),
            f"{check.lost} / {check.gained}",
            NOTHING if check.answer_points is None else f"{check.answer_points:.2g}",
        )
        if check
        else (NOTHING,) * 5
    )
    return (
        model.name,
        variant.precision,
        "yes" if variant.offered else "no",
        _calibration(variant),
        f"{len(variant.float_layers)} of {variant.layers}" if variant.layers else NOTHING,
        *compared,
        percent(variant.test.balanced_accuracy) if variant.test else NOTHING,
        f"{variant.size_bytes / 1e6:.1f}" if variant.size_bytes else NOTHING,
        f"{ms(own.p50_ms)} ({device})" if own else "not measured",
        f"{fp32.p50_ms / own.p50_ms:.2f}" if own and fp32 and own.place == fp32.place else NOTHING,
    )
