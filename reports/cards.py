"""A model card beside each promoted file: what it is, how sure that is, and where it ends.

After Mitchell et al. (2019, "Model cards for model reporting", FAT*), with the YAML head that
model hubs read. Everything in it comes from the study's record, through the report's own tables.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from bench.records import ModelRecord, StudyReport, ranked
from bench.statistics.intervals import Metric, balanced_accuracy, f1, log_loss, precision
from bench.workspace import write_atomic
from reports import tables
from reports.findings import RANDOM_WEIGHTS, winner_of
from reports.latency import study_tables
from reports.limits import limits
from reports.rendering import render
from reports.scores import (
    NOTHING,
    Marks,
    cv_optimism,
    cv_score,
    few_folds_note,
    legend,
    loss_cell,
    percent,
    percent_cell,
    points_cell,
    tested_score,
)
from reports.splits import protocol_name
from reports.table import Table, caption_of, without_repeats

CARD_FILE = "model.md"


def write_cards(report: StudyReport, root: Path) -> tuple[Path, ...]:
    """Write `model.md` beside each model file that is there, below the workspace `root`.

    A card names its file as `root` is given; an absolute one it keeps to itself, for cards travel.
    The same record gives the same bytes; a card that is there is replaced whole.
    """
    written = []
    for model in ranked(report.models):
        file = root / model.path
        if file.is_file():
            written.append(file.with_name(CARD_FILE))
            write_atomic(written[-1], card(report, model, root).encode())
    return tuple(written)


def card(report: StudyReport, model: ModelRecord, root: Path = Path()) -> str:
    """The card of one promoted model below the workspace `root`, as Markdown."""
    alone = _of(report, model)
    return render(
        "model.md.j2",
        report=report,
        model=model,
        head=yaml.safe_dump(_head(report, model), sort_keys=False, allow_unicode=True),
        winner=winner_of(report) is model,
        scores=_scores(report, model),
        per_class=tables.per_class(report, model),
        worst=_worst_classes(report, model),
        seeds=tables.seeds(report, model) if model.further_seeds else None,
        protocols=tables.protocols(alone) if alone.protocol_scores else None,
        variants=tables.precisions(alone) if model.variants else (),
        latency=tuple(map(without_repeats, study_tables(alone))) if alone.latencies else (),
        parity=tables.parity(alone) if model.parity else None,
        recipe=tables.recipe(report, model),
        data=(tables.data_facts(report), tables.classes(report)),
        broken=tables.broken_files(report) if report.dataset.broken else None,
        machine=tables.machine(report),
        protocol=protocol_name(report),
        limits=limits(report, model),
        path=None if root.is_absolute() else (root / model.path).as_posix(),
    )


def _of(report: StudyReport, model: ModelRecord) -> StudyReport:
    """The study as if this model alone had been promoted, with what was measured of its graphs."""
    keys = {model.architecture_key, *(model.variant_key(v) for v in model.variants)}
    return replace(
        report,
        models=(model,),
        latencies=tuple(row for row in report.latencies if row.architecture_key in keys),
        protocol_scores=tuple(s for s in report.protocol_scores if s.model == model.name),
    )


def _scores(report: StudyReport, model: ModelRecord) -> Table:
    """One row a score, with its interval."""
    optimism = cv_optimism(report, model)
    marks = Marks()

    def tested(metric: Metric) -> str:
        return percent_cell(tested_score(report, model, metric), marks)

    rows = (
        ("balanced accuracy in cross-validation, %", percent_cell(cv_score(report, model), marks)),
        ("balanced accuracy on the test set, %", tested(balanced_accuracy)),
        (
            "cross-validation minus test, points",
            points_cell(optimism, marks) if optimism else NOTHING,
        ),
        ("precision on the test set, %", tested(precision)),
        ("F1 on the test set, %", tested(f1)),
        (
            "log-loss on the test set, nats",
            loss_cell(tested_score(report, model, log_loss), marks),
        ),
    )
    return Table(
        caption=caption_of(report, f"Scores of {model.name}"),
        headers=("score", "value"),
        rows=rows,
        footnotes=(
            *marks.notes,
            legend(report),
            *few_folds_note(report),
            "Precision and F1 are macro means; macro recall is the balanced accuracy.",
        ),
    )


def _worst_classes(report: StudyReport, model: ModelRecord) -> Table:
    """Classes by recall, the worst first, and what their pictures are most often taken for."""
    classes = report.dataset.classes
    rows = []
    for true, scores in enumerate(model.test.per_class):
        counts = model.test.confusion[true]
        wrong = [(count, k) for k, count in enumerate(counts) if k != true and count]
        count, taken_for = max(wrong, key=lambda pair: (pair[0], -pair[1]), default=(0, None))
        rows.append(
            (
                scores.recall,
                scores.name,
                str(scores.support),
                "no other" if taken_for is None else f"{classes[taken_for]} ({count})",
            )
        )
    rows.sort(key=lambda row: (row[0], row[1]))
    return Table(
        caption=caption_of(report, "The worst classes and their commonest confusion"),
        headers=("class", "recall, %", "test pictures", "most often taken for (pictures)"),
        rows=tuple(
            (name, percent(recall), support, other) for recall, name, support, other in rows[:5]
        ),
    )


def _head(report: StudyReport, model: ModelRecord) -> dict[str, Any]:
    """What a model hub reads of a card."""
    tags = ["onnx", "image-classification", "bench"]
    if report.dataset.synthetic:
        tags.append("synthetic-data")
    metric = {
        "type": "balanced_accuracy",
        "name": "balanced accuracy, locked test set",
        "value": model.test.balanced_accuracy,
    }
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": report.dataset.name, "type": "image-folder"},
        "metrics": [metric],
    }
    known = model.weights_license if model.weights != RANDOM_WEIGHTS else ""
    return {
        **({"license": known} if known else {}),
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": tags,
        "model-index": [{"name": f"{report.study}/{model.name}", "results": [result]}],
    }
