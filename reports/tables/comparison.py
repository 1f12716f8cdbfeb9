"""Models side by side, studies side by side, and protocols side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.records import Estimate, LatencyRow, ModelRecord, StudyReport, ranked
from bench.statistics.intervals import f1, log_loss, precision
from bench.words import counted
from reports.findings import labels_of, winner_of
from reports.measured import reference_row, row_of
from reports.scores import (
    NOTHING,
    TIE,
    Marks,
    against,
    against_searched,
    cv_score,
    few_folds_note,
    loss_cell,
    percent_cell,
    points_cell,
    tested_score,
)
from reports.splits import protocol_name
from reports.table import Table, caption_of, ms

COMPARED_BATCHES = (1, 8)
COMPARED_DEVICES = (("cpu", "CPU"), ("cuda", "CUDA"))

GTZAN_REFERENCES = (("ResNet50", "67.0"), ("Xception", "78.0"))
BORROWED = "†"
REFERENCE_LABEL = (
    "published reference: best epoch on a random validation split (max over epochs, artists "
    "shared), not comparable to a locked test set"
)


def comparison(report: StudyReport) -> Table:
    """What decides between the promoted models, one row each, by cross-validated score."""
    models = ranked(report.models)
    setups = _setups(report)
    marks = Marks()
    rows = [
        (
            model.name,
            percent_cell(tested_score(report, model), marks),
            percent_cell(cv_score(report, model), marks),
            NOTHING if model is models[0] else TIE[against(report, model, models[0]).verdict],
            *(_median(model, report.latencies, setup) for setup in setups.values()),
            f"{model.size_bytes / 1e6:.1f}",
        )
        for model in models
    ]
    headers = (
        "model",
        "test balanced accuracy, %",
        "CV balanced accuracy, %",
        "test, against the first row",
        *(f"{label} p50, ms" for label in setups),
        "file, MB",
    )
    footnotes = [
        *marks.notes,
        "Rows are sorted by cross-validation (CV), since it alone selects. A tie: on the test "
        "pictures the model is neither better nor worse than the first row for certain, so the "
        "order of the two means nothing.",
        *few_folds_note(report),
    ]
    # Synthetic pictures may bear GTZAN's class names; no published score applies to them.
    if report.dataset.is_gtzan and not report.dataset.synthetic:
        rows += [_published_row(name, score, len(headers)) for name, score in GTZAN_REFERENCES]
        footnotes.append(f"‡ {REFERENCE_LABEL}.")
    footnotes += _borrowed_note(rows)
    footnotes += [
        _setup_footnote(label, setups.get(label), report.latencies) for _, label in COMPARED_DEVICES
    ]
    return Table(
        caption=caption_of(report, "Promoted models"),
        headers=headers,
        rows=tuple(rows),
        footnotes=tuple(footnotes),
    )


def further_scores(report: StudyReport) -> Table:
    """The other test scores of the promoted models, and how far each is from the first one."""
    models = ranked(report.models)
    marks = Marks()
    rows = [
        (
            model.name,
            _difference_cell(report, model, models[0], marks),
            percent_cell(tested_score(report, model, precision), marks),
            percent_cell(tested_score(report, model), marks),
            percent_cell(tested_score(report, model, f1), marks),
            loss_cell(tested_score(report, model, log_loss), marks),
        )
        for model in models
    ]
    return Table(
        caption=caption_of(report, "Further test scores"),
        headers=(
            "model",
            "balanced accuracy against the first row, points",
            "precision, %",
            "recall, %",
            "F1, %",
            "log-loss, nats",
        ),
        rows=tuple(rows),
        footnotes=(
            *marks.notes,
            "The difference is paired on the same pictures. Precision, recall and F1 are macro "
            "means; macro recall is the balanced accuracy.",
        ),
    )


def costs(report: StudyReport) -> Table:
    """What the promoted models are, their size, and their latency in more than one figure."""
    setups = _setups(report)
    rows = tuple(
        (
            model.name,
            model.role,
            model.recipe.backbone,
            f"{model.parameters / 1e6:.2f}",
            *(
                _percentiles(model, report.latencies, setup, batch)
                for setup in setups.values()
                for batch in COMPARED_BATCHES
            ),
        )
        for model in ranked(report.models)
    )
    return Table(
        caption=caption_of(report, "Size and latency"),
        headers=(
            "model",
            "role",
            "backbone",
            "parameters, M",
            *(
                f"{label} batch {batch}: p50 / p90 / p99, ms"
                for label in setups
                for batch in COMPARED_BATCHES
            ),
        ),
        rows=rows,
        footnotes=tuple(_borrowed_note(rows)),
    )


def _setups(report: StudyReport) -> dict[str, LatencyRow]:
    """The set-up that stands for each device on which anything was measured."""
    return {
        label: setup
        for device, label in COMPARED_DEVICES
        if (setup := reference_row(report.latencies, device)) is not None
    }


def _difference_cell(
    report: StudyReport, model: ModelRecord, first: ModelRecord, marks: Marks
) -> str:
    if model is first:
        return NOTHING
    return points_cell(against(report, model, first).difference, marks)


def _published_row(name: str, score: str, width: int) -> tuple[str, ...]:
    cells = (f"{name} ‡", NOTHING, f"{score} ‡")
    return cells + (NOTHING,) * (width - len(cells))


def _median(model: ModelRecord, latencies: Sequence[LatencyRow], setup: LatencyRow) -> str:
    row = row_of(model, latencies, setup, batch=1)
    return "not measured" if row is None else _measured_cell(model, row, ms(row.p50_ms))


def _percentiles(
    model: ModelRecord, latencies: Sequence[LatencyRow], setup: LatencyRow, batch: int
) -> str:
    row = row_of(model, latencies, setup, batch)
    if row is None:
        return "not measured"
    return _measured_cell(model, row, f"{ms(row.p50_ms)} / {ms(row.p90_ms)} / {ms(row.p99_ms)}")


def _measured_cell(model: ModelRecord, row: LatencyRow, cell: str) -> str:
    cell += "" if row.steady else " unsteady"
    return cell if row.model == model.name else f"{cell} {BORROWED}"


def _borrowed_note(rows: Iterable[Sequence[str]]) -> list[str]:
    if not any(cell.endswith(BORROWED) for row in rows for cell in row):
        return []
    return [f"{BORROWED} The same graph as another model here, which was measured for both."]


def _setup_footnote(label: str, setup: LatencyRow | None, latencies: Sequence[LatencyRow]) -> str:
    if setup is None:
        return f"{label}: not measured."
    text = (
        f"{label}: one picture at a time on {setup.place}, {setup.provider}, {setup.precision}, "
        f"{counted(setup.threads, 'thread')}, timed: {setup.timed}."
    )
    if any(row.device == setup.device and row.setup != setup.setup for row in latencies):
        text += " Other set-ups are in the latency table."
    return text


def cross_study(reports: Sequence[StudyReport]) -> Table:
    """One row a study: what it was run on, and its winner."""
    rows = []
    marks = Marks()
    for report in reports:
        dataset, winner = report.dataset, winner_of(report)
        rows.append(
            (
                report.study,
                dataset.name,
                f"{len(dataset.pictures):,}",
                str(len(dataset.classes)),
                f"{len(report.trials):,}",
                winner.name if winner else NOTHING,
                winner.recipe.backbone if winner else NOTHING,
                percent_cell(cv_score(report, winner) if winner else None, marks),
                percent_cell(tested_score(report, winner) if winner else None, marks),
                f"{len(report.split.test):,}",
                "; ".join(labels_of(report)) or NOTHING,
            )
        )
    splits = {report.split.fingerprint for report in reports}
    note = (
        "All studies share one split, so their scores compare directly."
        if len(splits) == 1
        else "The studies have different splits: scores on different pictures do not compare."
    )
    # Each study's label stands in its row; the caption tells what holds for any of them.
    labels = sorted({label for report in reports for label in labels_of(report)})
    caption = "Studies" + (f" ({'; '.join(labels)}: see the last column)" if labels else "")
    return Table(
        caption=caption,
        headers=(
            "study",
            "data set",
            "pictures",
            "classes",
            "trials",
            "winner",
            "backbone",
            "CV balanced accuracy, %",
            "test balanced accuracy, %",
            "test pictures",
            "labels",
        ),
        rows=tuple(rows),
        footnotes=(
            note,
            "Brackets hold 95 % intervals, which each study's section explains.",
            *marks.notes,
        ),
    )


def protocols(report: StudyReport) -> Table:
    """Each recipe that was trained under several protocols: a row a model and protocol."""
    rows = []
    marks = Marks()
    for model in ranked(report.models):
        further = [scores for scores in report.protocol_scores if scores.model == model.name]
        if not further:
            continue
        searched = f"{protocol_name(report)} (searched)"
        told: list[tuple[str, Estimate | None, Estimate, Estimate | None]] = [
            (searched, cv_score(report, model), tested_score(report, model), None)
        ]
        told += [
            (
                scores.protocol,
                cv_score(report, scores),
                tested_score(report, scores),
                against_searched(report, scores, model).difference,
            )
            for scores in further
        ]
        for protocol, cv, test, difference in told:
            rows.append(
                (
                    model.name,
                    protocol,
                    percent_cell(cv, marks),
                    percent_cell(test, marks),
                    NOTHING if difference is None else points_cell(difference, marks),
                )
            )
    return Table(
        caption=caption_of(report, "One recipe under several protocols"),
        headers=(
            "model",
            "protocol",
            "CV balanced accuracy, %",
            "test balanced accuracy, %",
            "test difference, points",
        ),
        rows=tuple(rows),
        footnotes=(
            "The recipe was chosen under the searched protocol, then trained anew on each other "
            "split. The test sets hold different pictures, so the difference is not a paired one.",
            *marks.notes,
        ),
    )
