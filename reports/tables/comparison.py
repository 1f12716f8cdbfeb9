"""Models side by side, studies side by side, and protocols side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.records import Estimate, LatencyRow, ModelRecord, StudyReport, ranked
from bench.statistics.intervals import f1, log_loss, precision
from bench.words import counted
from reports.findings import labels_of, winner_of
from reports.measured import reference_row, row_of
from reports.scores import (
    NOTHING,
    TIE,
    against,
    against_searched,
    cv_score,
    legend,
    plain,
    points,
    reasons,
    tested_score,
    with_interval,
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
    """One row a promoted model, by cross-validated score, with its latency where measured."""
    models = ranked(report.models)
    qualities = [_Quality.of(report, model) for model in models]
    setups = {
        label: setup
        for device, label in COMPARED_DEVICES
        if (setup := reference_row(report.latencies, device)) is not None
    }
    rows = [
        (
            *quality.cells(model),
            *_against_winner(report, model, models[0]),
            f"{model.parameters / 1e6:.2f}",
            f"{model.size_bytes / 1e6:.1f}",
            *(
                _timing(model, report.latencies, setup, batch)
                for setup in setups.values()
                for batch in COMPARED_BATCHES
            ),
        )
        for model, quality in zip(models, qualities, strict=True)
    ]
    headers = (
        *_QUALITY_HEADERS,
        "against the first row, points",
        "told apart",
        "parameters, M",
        "file, MB",
        *(
            f"{label} batch {batch}: p50 / p90 / p99, ms"
            for label in setups
            for batch in COMPARED_BATCHES
        ),
    )
    estimates = [e for q in qualities for e in (q.cross_validated, q.balanced_accuracy)]
    footnotes = [legend(report), *reasons(estimates), *_COMPARISON_NOTES]
    # Synthetic pictures may bear GTZAN's class names; no published score applies to them.
    if report.dataset.is_gtzan and not report.dataset.synthetic:
        rows += [_published_row(name, score, len(headers)) for name, score in GTZAN_REFERENCES]
        footnotes.append(f"‡ {REFERENCE_LABEL}.")
    if any(cell.endswith(BORROWED) for row in rows for cell in row):
        footnotes.append(
            f"{BORROWED} The same graph as another model here, which was measured for both."
        )
    footnotes += [
        _setup_footnote(label, setups.get(label), report.latencies) for _, label in COMPARED_DEVICES
    ]
    return Table(
        caption=caption_of(report, "Promoted models"),
        headers=headers,
        rows=tuple(rows),
        footnotes=tuple(footnotes),
    )


_QUALITY_HEADERS = (
    "model",
    "role",
    "backbone",
    "CV balanced accuracy, %",
    "test balanced accuracy, %",
    "precision, %",
    "recall, %",
    "F1, %",
    "log-loss, nats",
)
_COMPARISON_NOTES = (
    "Rows are sorted by cross-validation (CV), since it alone selects. The difference from the "
    "first row is that of balanced accuracies on the test set, paired on the same pictures. A row "
    "that is a tie is not told apart from the first one: its place means nothing.",
    "Precision, recall and F1 are macro means on the test set; macro recall is the balanced "
    "accuracy.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quality:
    """A model's scores with their intervals."""

    cross_validated: Estimate | None
    balanced_accuracy: Estimate
    precision: Estimate
    f1: Estimate
    log_loss: Estimate

    @classmethod
    def of(cls, report: StudyReport, model: ModelRecord) -> _Quality:
        return cls(
            cross_validated=cv_score(report, model),
            balanced_accuracy=tested_score(report, model),
            precision=tested_score(report, model, precision),
            f1=tested_score(report, model, f1),
            log_loss=tested_score(report, model, log_loss),
        )

    def cells(self, model: ModelRecord) -> tuple[str, ...]:
        return (
            model.name,
            model.role,
            model.recipe.backbone,
            with_interval(self.cross_validated),
            with_interval(self.balanced_accuracy),
            with_interval(self.precision),
            with_interval(self.balanced_accuracy),
            with_interval(self.f1),
            plain(self.log_loss),
        )


def _against_winner(
    report: StudyReport, model: ModelRecord, winner: ModelRecord
) -> tuple[str, str]:
    if model is winner:
        return NOTHING, NOTHING
    comparison = against(report, model, winner)
    return points(comparison.difference), TIE[comparison.verdict]


def _published_row(name: str, score: str, width: int) -> tuple[str, ...]:
    cells = (f"{name} ‡", "published reference", name, f"{score} ‡")
    return cells + (NOTHING,) * (width - len(cells))


def _timing(
    model: ModelRecord, latencies: Sequence[LatencyRow], setup: LatencyRow, batch: int
) -> str:
    row = row_of(model, latencies, setup, batch)
    if row is None:
        return "not measured"
    cell = f"{ms(row.p50_ms)} / {ms(row.p90_ms)} / {ms(row.p99_ms)}"
    cell += "" if row.steady else " unsteady"
    return cell if row.model == model.name else f"{cell} {BORROWED}"


def _setup_footnote(label: str, setup: LatencyRow | None, latencies: Sequence[LatencyRow]) -> str:
    if setup is None:
        return f"{label}: not measured."
    text = (
        f"{label}: {setup.place}, {setup.provider}, {setup.precision}, "
        f"{counted(setup.threads, 'thread')}, timed: {setup.timed}."
    )
    if any(row.device == setup.device and row.setup != setup.setup for row in latencies):
        text += " Other set-ups are in the latency table."
    return text


def cross_study(reports: Sequence[StudyReport]) -> Table:
    """One row a study: what it was run on, and its winner."""
    rows = []
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
                with_interval(cv_score(report, winner) if winner else None),
                with_interval(tested_score(report, winner) if winner else None),
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
        footnotes=(note, *dict.fromkeys(legend(report) for report in reports)),
    )


def protocols(report: StudyReport) -> Table:
    """Each recipe that was trained under several protocols: a row a model and protocol."""
    rows = []
    estimates: list[Estimate | None] = []
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
            estimates += [cv, test, difference]
            shown = NOTHING if difference is None else points(difference)
            rows.append((model.name, protocol, with_interval(cv), with_interval(test), shown))
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
            legend(report),
            *reasons(estimates),
        ),
    )
