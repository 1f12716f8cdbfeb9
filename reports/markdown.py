"""One Markdown document, its figures and its JSON, out of one study's record or several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import InputError
from bench.records import ModelRecord, StudyReport, ranked, to_json
from bench.words import counted
from bench.workspace import write_atomic
from reports import figures, tables
from reports.checklist import checklist
from reports.findings import (
    Example,
    default_of,
    first_score,
    labels_of,
    leak_warning,
    mistakes,
    right_answers,
    scored,
    trial_of,
    tuned_parameters,
    winner_of,
)
from reports.latency import study_tables
from reports.paths import as_reached
from reports.rendering import render
from reports.scores import percent
from reports.summary import Line, answers, remarks
from reports.table import Table, without_repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPaths:
    """What `write_report` wrote."""

    markdown: Path
    json: Path
    figures: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureFile:
    """A drawn figure; `path` is relative to the report, with forward slashes."""

    path: str
    caption: str
    png: bytes

    @property
    def alt(self) -> str:
        """The caption's first words, because the rest is read below the figure anyway.

        Without brackets, of which a closing one would end the text in Markdown.
        """
        return re.sub(r"[\[\]]", "", re.split(r"[.:;]\s", self.caption, maxsplit=1)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPart:
    """The confusions of one model, as a table and as a figure, and its reliability diagram."""

    name: str
    confusion: Table
    figure: FigureFile
    reliability: FigureFile


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryPart:
    """Example pictures of one kind, or the sentence that says why there are none."""

    figure: FigureFile | None
    remark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WinnerPart:
    """What is told of the winner alone."""

    model: ModelRecord
    hyper_parameters: Table
    per_class: Table
    seeds: Table | None
    curves: FigureFile | None
    mistakes: GalleryPart
    right: GalleryPart


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPart:
    """One study's section: words, tables and figures, ready for the template."""

    report: StudyReport
    warning: str | None
    answers: tuple[Line, ...]
    remarks: tuple[str, ...]
    comparison: tuple[Table, ...]
    protocols: Table | None
    calibration: Table | None
    variants: tuple[Table, ...]
    latency: tuple[Table, ...]
    parity: Table | None
    winner: WinnerPart | None
    models: tuple[ModelPart, ...]
    history: FigureFile | None
    parameters: FigureFile | None
    trial_counts: Table | None
    trials: Table | None
    failures: Table | None
    data: tuple[Table, ...]
    machine: tuple[Table, ...]
    checklist: Table

    @property
    def figure_files(self) -> tuple[FigureFile, ...]:
        found = [self.history, self.parameters]
        for model in self.models:
            found += [model.figure, model.reliability]
        if self.winner is not None:
            found += [self.winner.curves, self.winner.mistakes.figure, self.winner.right.figure]
        return tuple(figure for figure in found if figure is not None)


def write_report(
    reports: Sequence[StudyReport], out_dir: Path, *, root: Path = Path()
) -> ReportPaths:
    """Write `report.md`, `report.json` and `figures/*.png` into `out_dir`.

    root: the workspace as one types it, below which `report.md` names the model files; the JSON
        names them relative to the workspace.

    Several studies make one document: a table across the studies, then a section each. The JSON
    is the `StudyReport` itself for one study, a list of them for several. The same records give
    the same bytes. Every file is replaced whole, and `report.md` is written last.

    Raises:
        InputError: there is no study to report.
    """
    if not reports:
        raise InputError("a report needs at least one study, none was given: name a study")
    parts = [
        _study_part(
            as_reached(report, root), "figures" if len(reports) == 1 else f"figures/{number:02d}"
        )
        for number, report in enumerate(reports, start=1)
    ]
    written = []
    for figure in (figure for part in parts for figure in part.figure_files):
        written.append(out_dir / figure.path)
        write_atomic(written[-1], figure.png)
    json_path = out_dir / "report.json"
    record: object = reports[0] if len(reports) == 1 else tuple(reports)
    write_atomic(json_path, to_json(record, indent=2))
    markdown_path = out_dir / "report.md"
    write_atomic(markdown_path, _render(parts).encode())
    return ReportPaths(markdown=markdown_path, json=json_path, figures=tuple(written))


def _render(parts: Sequence[StudyPart]) -> str:
    several = len(parts) > 1
    return render(
        "report.md.j2",
        parts=parts,
        overview=tables.cross_study([part.report for part in parts]) if several else None,
    )


# --- one study ------------------------------------------------------------------------------


def _study_part(report: StudyReport, folder: str) -> StudyPart:
    models = ranked(report.models)
    has_trials = bool(report.trials)
    has_scores = bool(scored(report.trials))
    has_failures = any(trial.state == "FAIL" or trial.remark for trial in report.trials)
    return StudyPart(
        report=report,
        warning=leak_warning(report),
        answers=answers(report),
        remarks=remarks(report),
        comparison=_comparison(report) if models else (),
        protocols=tables.protocols(report) if report.protocol_scores else None,
        calibration=tables.calibration(report) if any(m.calibration for m in models) else None,
        variants=tables.precisions(report) if any(m.variants for m in models) else (),
        latency=tuple(map(without_repeats, study_tables(report))) if report.latencies else (),
        parity=tables.parity(report) if any(model.parity for model in models) else None,
        winner=_winner_part(report, folder),
        models=tuple(
            _model_part(report, model, folder, number) for number, model in enumerate(models, 1)
        ),
        history=_history(report, folder) if has_scores else None,
        parameters=_parameters(report, folder) if has_scores else None,
        trial_counts=tables.trial_counts(report) if has_trials else None,
        trials=without_repeats(tables.trials(report)) if has_trials else None,
        failures=tables.failures(report) if has_failures else None,
        data=(
            tables.data_facts(report),
            tables.classes(report),
            *((tables.conflicts(report),) if report.dataset.conflicts else ()),
            *((tables.broken_files(report),) if report.dataset.broken else ()),
        ),
        machine=(tables.study_settings(report), tables.machine(report)),
        checklist=checklist(report),
    )


def _comparison(report: StudyReport) -> tuple[Table, ...]:
    """What decides first, then the rest."""
    others = (tables.further_scores(report), tables.costs(report))
    return tables.comparison(report), *map(without_repeats, others)


# --- figures --------------------------------------------------------------------------------


def _figure(report: StudyReport, folder: str, name: str, caption: str, png: bytes) -> FigureFile:
    labels = labels_of(report)
    if labels:
        caption += f" ({'; '.join(labels)})"
    return FigureFile(path=f"{folder}/{name}.png", caption=caption, png=png)


def _history(report: StudyReport, folder: str) -> FigureFile:
    caption = (
        "Score of each trial and the best complete one so far. A pruned trial stands at the "
        "running mean it was stopped with."
    )
    if (first := first_score(report)) is not None:
        caption += f" The first score, {percent(first[1])} %, was there after {first[0]:.0f} s."
    return _figure(report, folder, "history", caption, figures.history(report))


def _parameters(report: StudyReport, folder: str) -> FigureFile | None:
    if not tuned_parameters([trial for trial, _ in scored(report.trials)]):
        return None
    caption = (
        "Score against each parameter that the search varied. The search looked where scores "
        "were good, so the density of dots is its doing."
    )
    return _figure(report, folder, "parameters", caption, figures.parameters(report))


def _model_part(report: StudyReport, model: ModelRecord, folder: str, number: int) -> ModelPart:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", model.name)
    caption = f"Confusion matrix of {model.name} on the test set."
    png = figures.confusion(report, model)
    return ModelPart(
        name=model.name,
        confusion=tables.confusion(report, model),
        figure=_figure(report, folder, f"confusion-{number}-{safe}", caption, png),
        reliability=_figure(
            report,
            folder,
            f"reliability-{number}-{safe}",
            f"Reliability of {model.name} on the test set: how often the predicted class is right, "
            "against its probability; below, how many pictures have that probability.",
            figures.reliability(report, model),
        ),
    )


def _winner_part(report: StudyReport, folder: str) -> WinnerPart | None:
    winner = winner_of(report)
    if winner is None:
        return None
    return WinnerPart(
        model=winner,
        hyper_parameters=tables.hyper_parameters(report, winner, default_of(report)),
        per_class=tables.per_class(report, winner),
        seeds=tables.seeds(report, winner) if winner.further_seeds else None,
        curves=_curves(report, winner, folder),
        mistakes=_gallery(report, mistakes(winner), folder, "mistakes"),
        right=_gallery(report, right_answers(winner), folder, "right"),
    )


def _curves(report: StudyReport, winner: ModelRecord, folder: str) -> FigureFile | None:
    trial = trial_of(report, winner)
    if not winner.train_curve and (trial is None or not trial.epochs):
        return None
    caption = (
        f"Trial {winner.trial} by epoch: the line is the mean over the folds, the band their "
        "range. Retraining uses all development pictures, so it has no validation curve."
    )
    return _figure(report, folder, "curves", caption, figures.curves(report, winner, trial))


_GALLERY_CAPTIONS = {
    "mistakes": "Wrongly classified test pictures, the most confident first: true class, "
    "predicted class and its probability; below, the file.",
    "right": "Rightly classified test pictures, the most confident of each class first.",
}


def _gallery(
    report: StudyReport, examples: tuple[Example, ...], folder: str, kind: str
) -> GalleryPart:
    described = "wrongly" if kind == "mistakes" else "rightly"
    if not examples:
        return GalleryPart(figure=None, remark=f"No test picture was {described} classified.")
    chosen = figures.thumbnails(report, examples)
    tested = counted(len(report.split.test), "test picture")
    remark = f"{described.capitalize()} classified: {len(examples):,} of {tested}"
    if not chosen:
        remark += "; their files can no longer be read where they were, so none is shown."
        return GalleryPart(figure=None, remark=remark)
    png = figures.gallery(report, chosen)
    figure = _figure(report, folder, kind, _GALLERY_CAPTIONS[kind], png)
    return GalleryPart(figure=figure, remark=f"{remark}; shown: {len(chosen)}.")
