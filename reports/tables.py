"""Records to tables: each function takes a study's record and returns one `Table`.

Cells, captions and footnotes are plain text; `Table.to_markdown` alone escapes them. Scores are
in per cent, times in milliseconds where nothing else is said; a dash stands for "not there".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from bench.records import (
    CalibrationEffect,
    Estimate,
    LatencyRow,
    ModelRecord,
    Recipe,
    StudyReport,
    TrialRecord,
    VariantRecord,
    best_trial,
    ranked,
)
from bench.statistics.intervals import (
    balanced_accuracy,
    bootstrap,
    cross_validated,
    f1,
    log_loss,
    precision,
)
from reports.findings import labels_of, tuned_parameters, winner_of
from reports.limits import straddling
from reports.scores import (
    NOTHING,
    TIE,
    against,
    against_best,
    against_searched,
    answers,
    cv_score,
    legend,
    percent,
    plain,
    points,
    reasons,
    signed,
    tested_score,
    with_interval,
)

LIST_LIMIT = 20
MATRIX_LIMIT = 20
TRIALS_LIMIT = 200
BEST_TRIALS = 100
LAST_TRIALS = 20
ERROR_CHARACTERS = 300
COMPARED_BATCHES = (1, 8)
COMPARED_DEVICES = (("cpu", "CPU"), ("cuda", "CUDA"))
FLOAT32 = ("fp32", "float32")

GTZAN_REFERENCES = (("ResNet50", "67.0"), ("Xception", "78.0"))
REFERENCE_LABEL = (
    "published reference: best epoch on a random validation split (max over epochs, artists "
    "shared), not comparable to a locked test set"
)


def escape(text: str) -> str:
    """Make text safe in a Markdown paragraph or table cell: one line, no markup of its own."""
    line = " ".join(text.split())
    line = re.sub(r"([\\`*|<>\[\]~$])", r"\\\1", line)
    line = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)
    line = re.sub(r"&(?=#?[A-Za-z0-9]+;)", r"\\&", line)
    # A list marker or heading at the start of a line; a number alone is no list.
    line = re.sub(r"^([-+#])(?=\s|#)", r"\\\1", line)
    return re.sub(r"^(\d+)([.)])(?=\s)", r"\1\\\2", line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table in plain text; `rows` are as wide as `headers`."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footnotes: tuple[str, ...] = ()

    def to_markdown(self) -> str:
        """Caption, pipe table and footnotes; columns of numbers are aligned to the right."""
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.headers)
        rule = ["---:" if _is_numeric(column) else "---" for column in columns]
        lines = [f"**{escape(self.caption)}**", ""]
        lines.append(_line(escape(header) for header in self.headers))
        lines.append(_line(rule))
        lines += [_line(escape(cell) for cell in row) for row in self.rows]
        for footnote in self.footnotes:
            lines += ["", escape(footnote)]
        return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _is_numeric(column: Sequence[str]) -> bool:
    return bool(column) and all(cell == NOTHING or re.match(r"[-+]?\d", cell) for cell in column)


def caption_of(report: StudyReport, text: str) -> str:
    """The caption with the study's warnings; its notes stand in full at the section's top."""
    labels = [*labels_of(report), *(("see the notes",) if report.notes else ())]
    return f"{text} ({'; '.join(labels)})" if labels else text


# --- the comparison -------------------------------------------------------------------------


def comparison(report: StudyReport) -> Table:
    """One row a promoted model, by cross-validated score, with its latency where measured."""
    models = ranked(report.models)
    setups = {device: _setup(report.latencies, device) for device, _ in COMPARED_DEVICES}
    shared = False
    rows = []
    estimates: list[Estimate | None] = []
    for model in models:
        quality = _Quality.of(report, model)
        estimates += [quality.cross_validated, quality.balanced_accuracy]
        cells = (
            *quality.cells(model),
            *_against_winner(report, model, models[0]),
            f"{model.parameters / 1e6:.2f}",
            f"{model.size_bytes / 1e6:.1f}",
        )
        for device, _ in COMPARED_DEVICES:
            for batch in COMPARED_BATCHES:
                row = _latency_of(model, report.latencies, setups[device], batch)
                borrowed = row is not None and row.model != model.name
                shared = shared or borrowed
                cells += (_percentiles(row) + (" †" if borrowed else ""),)
        rows.append(cells)
    headers = (
        "model",
        "role",
        "backbone",
        "CV balanced accuracy, %",
        "test balanced accuracy, %",
        "precision, %",
        "recall, %",
        "F1, %",
        "log-loss, nats",
        "against the first row, points",
        "told apart",
        "parameters, M",
        "file, MB",
        *(
            f"{label} batch {batch}: p50 / p90 / p99, ms"
            for _, label in COMPARED_DEVICES
            for batch in COMPARED_BATCHES
        ),
    )
    footnotes = [
        legend(report),
        *reasons(estimates),
        "Rows are sorted by cross-validation (CV), since it alone selects. The difference from the "
        "first row is that of balanced accuracies on the test set, paired on the same pictures. A "
        "row that is a tie is not told apart from the first one: its place means nothing.",
        "Precision, recall and F1 are macro means on the test set; macro recall is the balanced "
        "accuracy.",
    ]
    # Synthetic pictures may bear GTZAN's class names; no published score applies to them.
    if report.dataset.is_gtzan and not report.dataset.synthetic:
        rows += [_reference_row(name, score, len(headers)) for name, score in GTZAN_REFERENCES]
        footnotes.append(f"‡ {REFERENCE_LABEL}.")
    if shared:
        footnotes.append("† The same graph as another model here, which was measured for both.")
    footnotes += [
        _setup_footnote(label, setups[device], report.latencies)
        for device, label in COMPARED_DEVICES
    ]
    return Table(
        caption=caption_of(report, "Promoted models"),
        headers=headers,
        rows=tuple(rows),
        footnotes=tuple(footnotes),
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


def _reference_row(name: str, score: str, width: int) -> tuple[str, ...]:
    cells = (f"{name} ‡", "published reference", name, f"{score} ‡")
    return cells + (NOTHING,) * (width - len(cells))


def _setup(latencies: Sequence[LatencyRow], device: str) -> LatencyRow | None:
    """The row whose set-up the comparison uses on a device: the first one in 32-bit floats of
    the network alone, on the machine that was measured last.

    All cells of a device come from one set-up (machine, provider, precision, threads, what is
    timed), so that the rows compare like with like.
    """
    rows = [row for row in latencies if row.device == device and row.scope == "model"]
    rows = [row for row in rows if row.machine == rows[-1].machine]
    return next((row for row in rows if row.precision in FLOAT32), next(iter(rows), None))


def _latency_of(
    model: ModelRecord, latencies: Sequence[LatencyRow], setup: LatencyRow | None, batch: int
) -> LatencyRow | None:
    """The model's own measurement, or that of a model with the same graph."""
    if setup is None:
        return None
    rows = [
        row
        for row in latencies
        if row.architecture_key == model.architecture_key
        and row.batch_size == batch
        and row.setup == setup.setup
    ]
    return next((row for row in rows if row.model == model.name), next(iter(rows), None))


def _percentiles(row: LatencyRow | None) -> str:
    if row is None:
        return "not measured"
    mark = "" if row.steady else " unsteady"
    return f"{ms(row.p50_ms)} / {ms(row.p90_ms)} / {ms(row.p99_ms)}{mark}"


def _setup_footnote(label: str, setup: LatencyRow | None, latencies: Sequence[LatencyRow]) -> str:
    if setup is None:
        return f"{label}: not measured."
    text = (
        f"{label}: {setup.place}, {setup.provider}, {setup.precision}, "
        f"{setup.threads} threads, timed: {setup.timed}."
    )
    if any(row.device == setup.device and row.setup != setup.setup for row in latencies):
        text += " Other set-ups are in the latency table."
    return text


def ms(value: float | None) -> str:
    """Milliseconds with as many digits as a reader can use."""
    if value is None:
        return NOTHING
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def cross_study(reports: Sequence[StudyReport]) -> Table:
    """One row a study: what it was run on, and its winner."""
    rows = []
    for report in reports:
        dataset, winner = report.dataset, winner_of(report)
        rows.append(
            (
                report.study,
                dataset.name,
                f"{len(dataset.pictures)}",
                f"{len(dataset.classes)}",
                f"{len(report.trials)}",
                winner.name if winner else NOTHING,
                winner.recipe.backbone if winner else NOTHING,
                with_interval(cv_score(report, winner) if winner else None),
                with_interval(tested_score(report, winner) if winner else None),
                f"{len(report.split.test)}",
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


# --- one model ------------------------------------------------------------------------------


def per_class(report: StudyReport, model: ModelRecord) -> Table:
    """Scores by class; only recall has an interval, for only it depends on one class's pictures."""
    given = answers(report, model.predictions)
    recalls = [
        bootstrap(given.of_class(index), balanced_accuracy) if row.support else None
        for index, row in enumerate(model.test.per_class)
    ]
    return Table(
        caption=caption_of(report, f"Test scores of {model.name} by class"),
        headers=("class", "precision, %", "recall, %", "F1, %", "pictures"),
        rows=tuple(
            (
                row.name,
                percent(row.precision),
                with_interval(recall),
                percent(row.f1),
                str(row.support),
            )
            for row, recall in zip(model.test.per_class, recalls, strict=True)
        ),
        footnotes=(
            *reasons(recalls),
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
        footnotes=_and_more(len(pairs)),
    )


def seeds(report: StudyReport, model: ModelRecord) -> Table:
    """Test scores of one recipe over the seeds of its training."""
    runs = [("0 (the file that ships)", model.predictions)]
    runs += [(str(run.number), run.predictions) for run in model.further_seeds]
    scores = [bootstrap(answers(report, predictions), balanced_accuracy) for _, predictions in runs]
    return Table(
        caption=caption_of(report, f"{model.name} over the seeds of its training"),
        headers=("seed", "test balanced accuracy, %"),
        rows=tuple(
            (name, with_interval(score)) for (name, _), score in zip(runs, scores, strict=True)
        ),
        footnotes=(
            "The intervals tell how the score varies with the test pictures, the rows how it "
            "varies with the seed.",
            *reasons(scores),
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
            (field.name, *(_value(getattr(model.recipe, field.name)) for model in models))
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
            "balanced accuracy, difference",
        ),
        rows=tuple(
            (
                model.name,
                check.provider,
                str(check.batch_size),
                str(check.pictures),
                f"{check.max_abs_difference:.1e}",
                percent(check.top1_agreement),
                _difference(check.balanced_accuracy_difference),
            )
            for model in ranked(report.models)
            for check in model.parity
        ),
    )


def _difference(value: float | None) -> str:
    return NOTHING if value is None else f"{value:+.4f}"


# --- calibration ----------------------------------------------------------------------------


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


# --- variants -------------------------------------------------------------------------------


def variants(report: StudyReport) -> Table:
    """Each model in each precision: what it costs in answers, what it gains in time and size."""
    rows: list[tuple[str, ...]] = []
    for model in ranked(report.models):
        if not model.variants:
            continue
        own = _batch_one(report.latencies, model.architecture_key, "cpu")
        float_cells = ("yes", NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)
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
        "test column does, and has not been used to choose anything.",
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
            "balanced accuracy against fp32, points",
            "answers lost / gained",
            "test balanced accuracy, %",
            "file, MB",
            "p50 at batch 1, ms",
            "times faster than fp32",
        ),
        rows=tuple(rows),
        footnotes=(*footnotes, *refusals),
    )


def _variant_cells(
    report: StudyReport, model: ModelRecord, variant: VariantRecord
) -> tuple[str, ...]:
    check = variant.check
    device = "cuda" if variant.precision == "fp16" else "cpu"
    own = _batch_one(report.latencies, model.variant_key(variant), device)
    fp32 = _batch_one(report.latencies, model.architecture_key, device)
    compared = (
        (
            str(check.pictures),
            percent(check.top1_agreement),
            f"{check.difference_points:+.2f}",
            f"{check.lost} / {check.gained}",
        )
        if check
        else (NOTHING,) * 4
    )
    return (
        model.name,
        variant.precision,
        "yes" if variant.offered else "no",
        f"{variant.method}, {variant.calibration_pictures} pictures" if variant.method else NOTHING,
        f"{len(variant.float_layers)} of {variant.layers}" if variant.layers else NOTHING,
        *compared,
        percent(variant.test.balanced_accuracy) if variant.test else NOTHING,
        f"{variant.size_bytes / 1e6:.1f}" if variant.size_bytes else NOTHING,
        f"{ms(own.p50_ms)} ({device})" if own else "not measured",
        f"{fp32.p50_ms / own.p50_ms:.2f}" if own and fp32 and own.place == fp32.place else NOTHING,
    )


def _batch_one(latencies: Sequence[LatencyRow], key: str, device: str) -> LatencyRow | None:
    """Where a graph was measured last, as the comparison and `bench promote` take it."""
    rows = (r for r in reversed(latencies) if (r.architecture_key, r.device) == (key, device))
    return next((row for row in rows if (row.scope, row.batch_size) == ("model", 1)), None)


# --- trials ---------------------------------------------------------------------------------


def trial_counts(report: StudyReport) -> Table:
    counts = Counter(trial.state for trial in report.trials)
    return Table(
        caption=caption_of(report, "Trials by state"),
        headers=("state", "trials"),
        rows=tuple((state.lower(), str(counts[state])) for state in sorted(counts)),
    )


def trials(report: StudyReport) -> Table:
    """Every trial by number; of many, the best ones by value and then the latest."""
    shown, footnotes = _shown_trials(report.trials)
    tuned = [name for name in tuned_parameters(report.trials) if name != "backbone"]
    best = best_trial(report.trials)
    return Table(
        caption=caption_of(report, "Trials"),
        headers=(
            "trial",
            "state",
            "value, %",
            "told apart from the best",
            "folds",
            "backbone",
            "parameters",
            "seconds",
        ),
        rows=tuple(_trial_cells(trial, report, tuned, best) for trial in shown),
        footnotes=(
            *footnotes,
            "Brackets hold 95 % intervals of the corrected resampled t over the folds; a pruned "
            "trial's value is a running mean and has none. A tie: the scores on the same folds do "
            "not tell the trial from the best complete one.",
        ),
    )


def _shown_trials(
    records: Sequence[TrialRecord],
) -> tuple[tuple[TrialRecord, ...], tuple[str, ...]]:
    by_number = sorted(records, key=lambda trial: trial.number)
    if len(by_number) <= TRIALS_LIMIT:
        return tuple(by_number), ()

    def rank(trial: TrialRecord) -> tuple[bool, float]:
        value = trial.value if trial.value is not None else float("-inf")
        return trial.state != "COMPLETE", -value

    best = sorted(by_number, key=rank)[:BEST_TRIALS]
    numbers = {trial.number for trial in best}
    last = [trial for trial in by_number[-LAST_TRIALS:] if trial.number not in numbers]
    note = (
        f"Of {len(by_number)} trials the best {BEST_TRIALS} by value and the last {LAST_TRIALS} "
        "are shown; report.json holds all."
    )
    return (*best, *last), (note,)


def _trial_cells(
    trial: TrialRecord, report: StudyReport, tuned: Sequence[str], best: TrialRecord | None
) -> tuple[str, ...]:
    state = trial.state.lower() + (" (default)" if trial.is_default else "")
    return (
        str(trial.number),
        state,
        _trial_value(trial),
        _against_best(trial, best),
        f"{_finished_folds(trial, report)} of {len(report.split.folds)}",
        trial.recipe.backbone,
        ", ".join(f"{name} {_value(getattr(trial.recipe, name))}" for name in tuned) or NOTHING,
        f"{trial.seconds:.0f}",
    )


def _trial_value(trial: TrialRecord) -> str:
    if trial.value is None:
        return NOTHING
    if trial.state != "COMPLETE":
        return percent(trial.value)
    return with_interval(cross_validated(trial.value, trial.cv_sd, len(trial.fold_scores)))


def _against_best(trial: TrialRecord, best: TrialRecord | None) -> str:
    if best is None:
        return NOTHING
    if trial is best:
        return "best"
    comparison = against_best(trial, best)
    return NOTHING if comparison is None else TIE[comparison.verdict]


def _finished_folds(trial: TrialRecord, report: StudyReport) -> int:
    epochs = Counter(row.fold for row in trial.epochs)
    # A complete trial may have stopped a fold early; its folds are finished all the same.
    needed = 1 if trial.state == "COMPLETE" else report.settings.epochs
    return sum(count >= needed for count in epochs.values())


def failures(report: StudyReport) -> Table:
    """Trials that failed, and those that came to their end in an unusual way."""
    told = [trial for trial in report.trials if trial.state == "FAIL" or trial.remark]
    return Table(
        caption=caption_of(report, "Failures and remarks"),
        headers=("trial", "state", "error or remark"),
        rows=tuple(
            (
                str(trial.number),
                trial.state.lower(),
                _shortened(trial.error or trial.remark or "no error text was stored"),
            )
            for trial in told[:LIST_LIMIT]
        ),
        footnotes=_and_more(len(told)),
    )


def _shortened(text: str) -> str:
    """The text on one line; of a long one the end, where a traceback names its error."""
    line = " ".join(text.split())
    return line if len(line) <= ERROR_CHARACTERS else "… " + line[-ERROR_CHARACTERS:]


def _and_more(total: int) -> tuple[str, ...]:
    return (f"… and {total - LIST_LIMIT} more.",) if total > LIST_LIMIT else ()


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def protocols(report: StudyReport) -> Table:
    """Each recipe that was trained under several protocols: a row a model and protocol."""
    rows = []
    estimates: list[Estimate | None] = []
    for model in ranked(report.models):
        further = [scores for scores in report.protocol_scores if scores.model == model.name]
        if not further:
            continue
        searched = f"{report.split.protocol or NOTHING} (searched)"
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


# --- data and machine -----------------------------------------------------------------------


def classes(report: StudyReport) -> Table:
    """Pictures of each class, in all and in the test set."""
    dataset = report.dataset
    labels = dataset.labels
    everywhere = Counter(labels)
    in_test = Counter(labels[index] for index in report.split.test)
    return Table(
        caption=caption_of(report, f"Classes of {dataset.name}"),
        headers=("class", "pictures", "for development", "locked test set"),
        rows=tuple(
            (
                name,
                str(everywhere[index]),
                str(everywhere[index] - in_test[index]),
                str(in_test[index]),
            )
            for index, name in enumerate(dataset.classes)
        ),
    )


def data_facts(report: StudyReport) -> Table:
    dataset, split = report.dataset, report.split
    groups = Counter(p.group for p in dataset.pictures if p.group is not None)
    parted = straddling(dataset, split)["groups"]
    where = f"{parted} stand on both sides of the split" if parted else "none straddles a split"
    if split.protocol == "random":
        where = "ignored by the random split"
    grouping = (
        f"{len(groups)} groups over {groups.total()} pictures; {where}"
        if groups
        else "none: every picture stands alone"
    )
    crop = f"{dataset.crop} (left, top, right, bottom), pixels" if dataset.crop else "none"
    rows = (
        ("kind", dataset.kind + (", synthetic" if dataset.synthetic else "")),
        ("pictures", str(len(dataset.pictures))),
        ("broken files, left out", str(len(dataset.broken))),
        ("crop", crop),
        ("groups", grouping),
        *(("tied by a rule", str(tied)) for tied in dataset.tied),
        ("protocol", split.protocol or "not recorded"),
        *((("pictures in no part", str(len(split.left_out))),) if split.left_out else ()),
        ("locked test set", f"{len(split.test)} pictures"),
        (
            "cross-validation",
            f"{len(split.folds)} folds of {', '.join(str(len(fold)) for fold in split.folds)} "
            "validation pictures",
        ),
        ("split seed", str(split.seed)),
        ("data set fingerprint", dataset.fingerprint),
        ("split fingerprint", split.fingerprint),
    )
    return Table(caption=caption_of(report, "Data"), headers=("what", "value"), rows=rows)


def broken_files(report: StudyReport) -> Table:
    broken = report.dataset.broken
    return Table(
        caption=caption_of(report, "Broken files, left out of everything"),
        headers=("file", "reason"),
        rows=tuple((row.path, row.reason) for row in broken[:LIST_LIMIT]),
        footnotes=_and_more(len(broken)),
    )


def study_settings(report: StudyReport) -> Table:
    settings = report.settings
    rows = (
        ("search space", report.space),
        ("device", report.device),
        *(
            (field.name, "the backbone's own" if value is None else str(value))
            for field in fields(settings)
            for value in (getattr(settings, field.name),)
        ),
    )
    return Table(caption=caption_of(report, "Settings"), headers=("setting", "value"), rows=rows)


def machine(report: StudyReport) -> Table:
    environment = report.environment
    rows = (
        ("created", environment.created),
        ("CPU", f"{environment.cpu}, {environment.cores} cores"),
        ("memory", f"{environment.memory_bytes / 2**30:.1f} GiB"),
        ("GPU", environment.gpu or "none"),
        ("platform", environment.platform),
        ("Python", environment.python),
        *sorted(environment.versions.items()),
    )
    return Table(
        caption=caption_of(report, "Machine and versions"), headers=("what", "value"), rows=rows
    )
