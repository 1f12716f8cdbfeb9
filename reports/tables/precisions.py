"""Each model in each precision: what it costs in answers, what it gains in time and size."""

from __future__ import annotations

from bench.latency.ratios import LatencyRatio
from bench.records import (
    LatencyRow,
    ModelRecord,
    StudyReport,
    VariantCheck,
    VariantRecord,
    latest_row,
    ranked,
)
from bench.words import counted
from reports.scores import NOTHING, percent
from reports.table import Table, caption_of, ms, without_repeats


def precisions(report: StudyReport) -> tuple[Table, Table]:
    """What decides between a model's files, and how they were checked, fit to be read."""
    return variants(report), without_repeats(variant_checks(report))


def variants(report: StudyReport) -> Table:
    """What decides between a model's files: score, size and speed of each precision."""
    rows: list[tuple[str, ...]] = []
    refusals = []
    for model in ranked(report.models):
        if not model.variants:
            continue
        rows.append(_fp32_cells(report, model))
        rows += [_variant_cells(report, model, variant) for variant in model.variants]
        refusals += [
            f"{model.name} {variant.precision} is not offered, and its file has been removed: "
            f"{variant.refused}."
            for variant in model.variants
            if variant.refused is not None
        ]
    return Table(
        caption=caption_of(report, "Precisions"),
        headers=(
            "model",
            "precision",
            "offered",
            "test balanced accuracy, %",
            "file, MB",
            "p50 at batch 1, ms",
            "times faster than fp32",
        ),
        rows=tuple(rows),
        footnotes=(
            "What is offered was decided on development pictures (the next table), not by test "
            "score.",
            "Times are compared where both files were measured in turns: the median of the rounds' "
            "own ratios, in brackets its 95 % interval over five rounds or more.",
            *refusals,
        ),
    )


def variant_checks(report: StudyReport) -> Table:
    """How alike each precision and the fp32 file answer, which decides what is offered."""
    return Table(
        caption=caption_of(report, "Precisions against the fp32 file"),
        headers=(
            "model",
            "precision",
            "calibration",
            "layers left in float32",
            "pictures compared",
            "same top class, %",
            "balanced accuracy against fp32, points (95 %)",
            "answers lost / gained",
            "one answer, points",
        ),
        rows=tuple(
            _check_cells(model, variant)
            for model in ranked(report.models)
            for variant in model.variants
        ),
        footnotes=(
            "Compared on development pictures of other folds than those used to calibrate. The "
            "fp32 file was trained on them, so this tells how alike the two answer, not how good "
            "they are. The gate looks at the difference as it is, whatever its interval; one "
            "answer is worth so much in the class of the fewest pictures.",
        ),
    )


def _difference(check: VariantCheck) -> str:
    interval = check.interval_points
    sure = "" if interval is None else f" ({interval[0]:+.2f} to {interval[1]:+.2f})"
    return f"{check.difference_points:+.2f}{sure}"


def _calibration(variant: VariantRecord) -> str:
    if not variant.method:
        return NOTHING
    return f"{variant.method}, {counted(variant.calibration_pictures, 'picture')}"


def _fp32_cells(report: StudyReport, model: ModelRecord) -> tuple[str, ...]:
    own = latest_row(report.latencies, model.architecture_key, "cpu")
    return (
        model.name,
        "fp32",
        "yes",
        percent(model.test.balanced_accuracy),
        f"{model.size_bytes / 1e6:.1f}",
        ms(own.p50_ms) if own else "not measured",
        NOTHING,
    )


def _variant_cells(
    report: StudyReport, model: ModelRecord, variant: VariantRecord
) -> tuple[str, ...]:
    device = "cuda" if variant.precision == "fp16" else "cpu"
    own = latest_row(report.latencies, model.variant_key(variant), device)
    fp32 = latest_row(report.latencies, model.architecture_key, device)
    return (
        model.name,
        variant.precision,
        "yes" if variant.offered else "no",
        percent(variant.test.balanced_accuracy) if variant.test else NOTHING,
        f"{variant.size_bytes / 1e6:.1f}" if variant.size_bytes else NOTHING,
        f"{ms(own.p50_ms)} ({device})" if own else "not measured",
        _times_faster(fp32, own),
    )


def _times_faster(fp32: LatencyRow | None, own: LatencyRow | None) -> str:
    """The ratio of two rows that were measured in turns, and what it carries."""
    if fp32 is None or own is None or not own.turns or own.turns != fp32.turns:
        return NOTHING
    compared = LatencyRatio(first=fp32, second=own)
    interval = compared.interval
    sure = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
    return f"{compared.ratio:.2f}{sure}" + (", a tie" if compared.verdict == "tie" else "")


def _check_cells(model: ModelRecord, variant: VariantRecord) -> tuple[str, ...]:
    check = variant.check
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
        _calibration(variant),
        f"{len(variant.float_layers)} of {variant.layers}" if variant.layers else NOTHING,
        *compared,
    )
