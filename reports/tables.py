"""Records to tables: each function takes a study's record and returns one `Table`.

Cells, captions and footnotes are plain text; `Table.to_markdown` alone escapes them. Scores are
in per cent, times in milliseconds where nothing else is said; a dash stands for "not there".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from bench.records import LatencyRow, ModelRecord, Recipe, StudyReport, TrialRecord
from reports.findings import (
    labels_of,
    percent,
    percent_with_sd,
    ranked,
    tuned_parameters,
    winner_of,
)

NOTHING = "\N{EN DASH}"
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


def _caption(report: StudyReport, text: str) -> str:
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
    for model in models:
        cells = _quality_cells(model)
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
        "log-loss",
        "parameters, M",
        "file, MB",
        *(
            f"{label} batch {batch}: p50 / p90 / p99, ms"
            for _, label in COMPARED_DEVICES
            for batch in COMPARED_BATCHES
        ),
    )
    footnotes = [
        "CV: mean ± standard deviation over the folds; rows are sorted by it, since it alone "
        "selects. Precision, recall and F1 are macro means on the test set."
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
        caption=_caption(report, "Promoted models"),
        headers=headers,
        rows=tuple(rows),
        footnotes=tuple(footnotes),
    )


def _quality_cells(model: ModelRecord) -> tuple[str, ...]:
    test = model.test
    return (
        model.name,
        model.role,
        model.recipe.backbone,
        percent_with_sd(model.cv_mean, model.cv_sd),
        percent(test.balanced_accuracy),
        percent(test.precision),
        percent(test.recall),
        percent(test.f1),
        f"{test.log_loss:.3f}",
        f"{model.parameters / 1e6:.2f}",
        f"{model.size_bytes / 1e6:.1f}",
    )


def _reference_row(name: str, score: str, width: int) -> tuple[str, ...]:
    cells = (f"{name} ‡", "published reference", name, f"{score} ‡")
    return cells + (NOTHING,) * (width - len(cells))


def _setup(latencies: Sequence[LatencyRow], device: str) -> LatencyRow | None:
    """The row whose set-up the comparison uses on a device: the first one in 32-bit floats.

    All cells of a device come from one set-up (machine, provider, precision, threads, what is
    timed), so that the rows compare like with like.
    """
    rows = [row for row in latencies if row.device == device]
    return next((row for row in rows if row.precision in FLOAT32), next(iter(rows), None))


def _same_setup(row: LatencyRow, setup: LatencyRow) -> bool:
    names = ("device", "device_name", "provider", "precision", "threads", "timed")
    return all(getattr(row, name) == getattr(setup, name) for name in names)


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
        and _same_setup(row, setup)
    ]
    return next((row for row in rows if row.model == model.name), next(iter(rows), None))


def _percentiles(row: LatencyRow | None) -> str:
    if row is None:
        return "not measured"
    mark = "" if row.steady else " unsteady"
    return f"{_ms(row.p50_ms)} / {_ms(row.p90_ms)} / {_ms(row.p99_ms)}{mark}"


def _setup_footnote(label: str, setup: LatencyRow | None, latencies: Sequence[LatencyRow]) -> str:
    if setup is None:
        return f"{label}: not measured."
    text = (
        f"{label}: {setup.device_name}, {setup.provider}, {setup.precision}, "
        f"{setup.threads} threads, timed: {setup.timed}."
    )
    if any(row.device == setup.device and not _same_setup(row, setup) for row in latencies):
        text += " Other set-ups are in the latency table."
    return text


def _ms(value: float | None) -> str:
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
                percent_with_sd(winner.cv_mean, winner.cv_sd) if winner else NOTHING,
                percent(winner.test.balanced_accuracy) if winner else NOTHING,
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
        footnotes=(note,),
    )


# --- one model ------------------------------------------------------------------------------


def per_class(report: StudyReport, model: ModelRecord) -> Table:
    return Table(
        caption=_caption(report, f"Test scores of {model.name} by class"),
        headers=("class", "precision, %", "recall, %", "F1, %", "pictures"),
        rows=tuple(
            (
                row.name,
                percent(row.precision),
                percent(row.recall),
                percent(row.f1),
                str(row.support),
            )
            for row in model.test.per_class
        ),
    )


def confusion(report: StudyReport, model: ModelRecord) -> Table:
    """The confusion matrix, or the commonest confusions where it would be too wide to read."""
    classes = report.dataset.classes
    if len(classes) > MATRIX_LIMIT:
        return _commonest_confusions(report, model)
    return Table(
        caption=_caption(report, f"Confusion matrix of {model.name}, test pictures"),
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
        caption=_caption(report, f"Commonest confusions of {model.name}, test pictures"),
        headers=("true", "predicted", "pictures"),
        rows=tuple((classes[t], classes[p], str(count)) for count, t, p in pairs[:LIST_LIMIT]),
        footnotes=_and_more(len(pairs)),
    )


def hyper_parameters(
    report: StudyReport, winner: ModelRecord, default: ModelRecord | None
) -> Table:
    """The winner's recipe, beside the default one where another model was trained by it."""
    models = (winner,) if default in (None, winner) else (winner, default)
    named = [model for model in models if model is not None]
    rows = [
        (field.name, *(_value(getattr(model.recipe, field.name)) for model in named))
        for field in fields(Recipe)
    ]
    rows += [
        ("starting weights", *(model.weights for model in named)),
        ("image size, pixels", *(str(model.image_size) for model in named)),
        ("trial", *(str(model.trial) for model in named)),
    ]
    heads = ("winner", "default")
    return Table(
        caption=_caption(report, "Hyper-parameters"),
        headers=(
            "parameter",
            *(f"{head}: {model.name}" for head, model in zip(heads, named, strict=False)),
        ),
        rows=tuple(rows),
    )


def parity(report: StudyReport) -> Table:
    return Table(
        caption=_caption(report, "ONNX file against the trained model"),
        headers=(
            "model",
            "provider",
            "batch",
            "pictures",
            "largest difference of a probability",
            "same top class, %",
        ),
        rows=tuple(
            (
                model.name,
                check.provider,
                str(check.batch_size),
                str(check.pictures),
                f"{check.max_abs_difference:.1e}",
                percent(check.top1_agreement),
            )
            for model in ranked(report.models)
            for check in model.parity
        ),
    )


# --- latency --------------------------------------------------------------------------------


def latency(report: StudyReport) -> Table:
    """Every measurement, with its set-up; times are of one call."""
    best = _best_batches(report.latencies)
    rows = tuple(_latency_cells(row, row in best) for row in report.latencies)
    footnotes = [
        "p50 is the median of the processes' medians, whose range stands beside it; p90 and p99 "
        "are pooled, and p99 needs 300 calls. Models within 5 % of one another are a tie.",
        "(best): the batch size with the most pictures a second in that set-up.",
        *_sharing_footnotes(report),
    ]
    return Table(
        caption=_caption(report, "Latency"),
        headers=(
            "model",
            "device",
            "provider proved",
            "precision",
            "batch",
            "threads",
            "processes",
            "calls",
            "p50, ms",
            "range of medians, ms",
            "p90, ms",
            "p99, ms",
            "pictures/s",
            "steadiness",
            "timed",
        ),
        rows=rows,
        footnotes=tuple(footnotes),
    )


def _latency_cells(row: LatencyRow, is_best: bool) -> tuple[str, ...]:
    medians = row.process_medians_ms
    return (
        row.model,
        f"{row.device}: {row.device_name}",
        row.provider,
        row.precision,
        str(row.batch_size),
        str(row.threads),
        str(len(row.samples)),
        str(row.calls),
        _ms(row.p50_ms),
        f"{_ms(min(medians))} to {_ms(max(medians))}",
        _ms(row.p90_ms),
        _ms(row.p99_ms),
        f"{row.throughput_per_s:.1f}" + (" (best)" if is_best else ""),
        "steady" if row.steady else "unsteady",
        row.timed,
    )


def _best_batches(latencies: Sequence[LatencyRow]) -> list[LatencyRow]:
    best = []
    for row in latencies:
        rivals = [other for other in latencies if _same_curve(row, other)]
        if len(rivals) > 1 and row is max(rivals, key=lambda rival: rival.throughput_per_s):
            best.append(row)
    return best


def _same_curve(row: LatencyRow, other: LatencyRow) -> bool:
    return row.model == other.model and row.path == other.path and _same_setup(row, other)


def _sharing_footnotes(report: StudyReport) -> list[str]:
    names: dict[str, list[str]] = {}
    for model in ranked(report.models):
        names.setdefault(model.architecture_key, []).append(model.name)
    measured = {row.architecture_key for row in report.latencies}
    return [
        f"One measurement stands for all models of the same graph {key}: {', '.join(sharing)}."
        for key, sharing in names.items()
        if len(sharing) > 1 and key in measured
    ]


# --- trials ---------------------------------------------------------------------------------


def trial_counts(report: StudyReport) -> Table:
    counts = Counter(trial.state for trial in report.trials)
    return Table(
        caption=_caption(report, "Trials by state"),
        headers=("state", "trials"),
        rows=tuple((state.lower(), str(counts[state])) for state in sorted(counts)),
    )


def trials(report: StudyReport) -> Table:
    """Every trial by number; of many, the best ones by value and then the latest."""
    shown, footnotes = _shown_trials(report.trials)
    tuned = [name for name in tuned_parameters(report.trials) if name != "backbone"]
    return Table(
        caption=_caption(report, "Trials"),
        headers=("trial", "state", "value, %", "folds", "backbone", "parameters", "seconds"),
        rows=tuple(_trial_cells(trial, report, tuned) for trial in shown),
        footnotes=footnotes,
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


def _trial_cells(trial: TrialRecord, report: StudyReport, tuned: Sequence[str]) -> tuple[str, ...]:
    state = trial.state.lower() + (" (default)" if trial.is_default else "")
    return (
        str(trial.number),
        state,
        NOTHING if trial.value is None else percent(trial.value),
        f"{_finished_folds(trial, report)} of {len(report.split.folds)}",
        trial.recipe.backbone,
        ", ".join(f"{name} {_value(getattr(trial.recipe, name))}" for name in tuned) or NOTHING,
        f"{trial.seconds:.0f}",
    )


def _finished_folds(trial: TrialRecord, report: StudyReport) -> int:
    epochs = Counter(row.fold for row in trial.epochs)
    # A complete trial may have stopped a fold early; its folds are finished all the same.
    needed = 1 if trial.state == "COMPLETE" else report.settings.epochs
    return sum(count >= needed for count in epochs.values())


def failures(report: StudyReport) -> Table:
    """Trials that failed, and those that came to their end in an unusual way."""
    told = [trial for trial in report.trials if trial.state == "FAIL" or trial.remark]
    return Table(
        caption=_caption(report, "Failures and remarks"),
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
    for model in ranked(report.models):
        further = [scores for scores in report.protocol_scores if scores.model == model.name]
        if not further:
            continue
        searched = report.split.protocol or NOTHING
        cv = percent_with_sd(model.cv_mean, model.cv_sd)
        test = model.test.balanced_accuracy
        rows.append((model.name, f"{searched} (searched)", cv, percent(test), NOTHING))
        rows += [
            (
                model.name,
                scores.protocol,
                percent_with_sd(scores.cv_mean, scores.cv_sd),
                percent(scores.test.balanced_accuracy),
                f"{100 * (scores.test.balanced_accuracy - test):+.1f}",
            )
            for scores in further
        ]
    return Table(
        caption=_caption(report, "One recipe under several protocols"),
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
        caption=_caption(report, f"Classes of {dataset.name}"),
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
    straddling = (
        "ignored by the random split" if split.protocol == "random" else "none straddles a split"
    )
    grouping = (
        f"{len(groups)} groups over {groups.total()} pictures; {straddling}"
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
    return Table(caption=_caption(report, "Data"), headers=("what", "value"), rows=rows)


def broken_files(report: StudyReport) -> Table:
    broken = report.dataset.broken
    return Table(
        caption=_caption(report, "Broken files, left out of everything"),
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
    return Table(caption=_caption(report, "Settings"), headers=("setting", "value"), rows=rows)


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
        caption=_caption(report, "Machine and versions"), headers=("what", "value"), rows=rows
    )
