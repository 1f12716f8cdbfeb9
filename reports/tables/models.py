"""One model: scores by class and by seed, confusions, recipe, and its file against torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from bench.records import ModelRecord, ParityCheck, Recipe, StudyReport, ranked
from bench.statistics.intervals import balanced_accuracy, bootstrap
from reports.scores import NOTHING, Marks, answers, percent, percent_cell
from reports.table import LIST_LIMIT, Table, and_more, caption_of, shown

MATRIX_LIMIT = 20  # classes of a confusion matrix that can still be read


def per_class(report: StudyReport, model: ModelRecord) -> Table:
    """Scores by class; only recall has an interval, for only it depends on one class's pictures."""
    given = answers(report, model.predictions)
    recalls = [
        bootstrap(given.of_class(index), balanced_accuracy) if row.support else None
        for index, row in enumerate(model.test.per_class)
    ]
    marks = Marks()
    rows = tuple(
        (
            row.name,
            percent(row.precision),
            percent_cell(recall, marks),
            percent(row.f1),
            str(row.support),
        )
        for row, recall in zip(model.test.per_class, recalls, strict=True)
    )
    return Table(
        caption=caption_of(report, f"Test scores of {model.name} by class"),
        headers=("class", "precision, %", "recall, %", "F1, %", "pictures"),
        rows=rows,
        footnotes=(
            *marks.notes,
            "Precision and F1 of one class depend on how many pictures of the others the test set "
            "happens to hold; they are given without an interval.",
        ),
    )


def confusion(report: StudyReport, model: ModelRecord) -> Table:
    """The confusion matrix, or the commonest confusions where it would be too wide to read."""
    classes = report.dataset.classes
    if len(classes) > MATRIX_LIMIT:
        return _commonest_confusions(report, model)
    return Table(
        caption=caption_of(report, f"Confusion matrix of {model.name}, test pictures"),
        headers=("true \\ predicted", *classes),
        rows=tuple(
            (name, *(str(count) for count in counts))
            for name, counts in zip(classes, model.test.confusion, strict=True)
        ),
    )


def _commonest_confusions(report: StudyReport, model: ModelRecord) -> Table:
    classes = report.dataset.classes
    pairs = [
        (count, true, predicted)
        for true, counts in enumerate(model.test.confusion)
        for predicted, count in enumerate(counts)
        if true != predicted and count
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return Table(
        caption=caption_of(report, f"Commonest confusions of {model.name}, test pictures"),
        headers=("true", "predicted", "pictures"),
        rows=tuple((classes[t], classes[p], str(count)) for count, t, p in pairs[:LIST_LIMIT]),
        footnotes=and_more(len(pairs)),
    )


def seeds(report: StudyReport, model: ModelRecord) -> Table:
    """Test scores of one recipe over the seeds of its training."""
    runs = [("0 (the file that ships)", model.predictions)]
    runs += [(str(run.number), run.predictions) for run in model.further_seeds]
    marks = Marks()
    rows = tuple(
        (name, percent_cell(bootstrap(answers(report, predictions), balanced_accuracy), marks))
        for name, predictions in runs
    )
    return Table(
        caption=caption_of(report, f"{model.name} over the seeds of its training"),
        headers=("seed", "test balanced accuracy, %"),
        rows=rows,
        footnotes=(
            *marks.notes,
            "The intervals tell how the score varies with the test pictures, the rows how it "
            "varies with the seed.",
        ),
    )


def hyper_parameters(
    report: StudyReport, winner: ModelRecord, default: ModelRecord | None
) -> Table:
    """The winner's recipe, beside the default one where another model was trained by it."""
    models = (winner,) if default in (None, winner) else (winner, default)
    named = [model for model in models if model is not None]
    heads = ("winner", "default")
    return Table(
        caption=caption_of(report, "Hyper-parameters"),
        headers=(
            "parameter",
            *(f"{head}: {model.name}" for head, model in zip(heads, named, strict=False)),
        ),
        rows=_recipe_rows(named),
    )


def recipe(report: StudyReport, model: ModelRecord) -> Table:
    """How one model was trained."""
    return Table(
        caption=caption_of(report, f"Recipe of {model.name}"),
        headers=("parameter", "value"),
        rows=_recipe_rows((model,)),
    )


def _recipe_rows(models: Sequence[ModelRecord]) -> tuple[tuple[str, ...], ...]:
    return (
        *(
            (field.name, *(shown(getattr(model.recipe, field.name)) for model in models))
            for field in fields(Recipe)
        ),
        ("starting weights", *(model.weights for model in models)),
        ("image size, pixels", *(str(model.image_size) for model in models)),
        ("trial", *(str(model.trial) for model in models)),
    )


def parity(report: StudyReport) -> Table:
    return Table(
        caption=caption_of(report, "ONNX file against the trained model"),
        headers=(
            "model",
            "provider",
            "batch",
            "pictures",
            "largest difference of a probability",
            "same top class, %",
            "balanced accuracy, difference in points",
        ),
        rows=tuple(
            (
                model.name,
                check.provider,
                str(check.batch_size),
                str(check.pictures),
                _parity(check),
                percent(check.top1_agreement),
                _difference(check.balanced_accuracy_difference),
            )
            for model in ranked(report.models)
            for check in model.parity
        ),
    )


def _parity(check: ParityCheck) -> str:
    """The largest difference, and what excuses one beyond the tolerance."""
    difference = f"{check.max_abs_difference:.1e}"
    if check.rounding is None:
        return difference
    file, model = check.rounding.file, check.rounding.model
    return f"{difference} (rounding: from float64 the file by {file:.1e}, the model by {model:.1e})"


def _difference(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:+.2f}"
