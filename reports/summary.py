"""The first screen of a report: which model, how good, how sure, how fast, and where it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.records import (
    CONFLICT_MEANING,
    LatencyRow,
    ModelRecord,
    StudyReport,
    VariantRecord,
    best_trial,
    describe_conflicts,
    latest_row,
)
from bench.words import counted
from reports.findings import protocol_verdicts, seed_sentence, tuning_verdict, winner_of
from reports.measured import reference_row, row_of
from reports.paths import IN_ITS_WORKSPACE
from reports.scores import (
    counted_pictures,
    cv_optimism,
    cv_score,
    in_percent,
    in_points,
    legend,
    percent,
    tested_score,
)
from reports.splits import protocol_name
from reports.table import ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A question that a reader comes with, and its answer in a sentence or two."""

    question: str
    answer: str


def answers(report: StudyReport) -> tuple[Line, ...]:
    """What a reader wants to know of the winner before anything else; empty without one."""
    winner = winner_of(report)
    if winner is None:
        return ()
    return (
        Line(question="Model", answer=_model(winner)),
        Line(question="How good", answer=_how_good(report, winner)),
        Line(question="How sure", answer=_how_sure(report, winner)),
        Line(question="What tuning gained", answer=_gain(report, winner)),
        Line(question="How fast", answer=_how_fast(report, winner)),
        Line(question="File", answer=_files(winner)),
    )


def headlines(report: StudyReport) -> tuple[str, ...]:
    """The answers in plain lines for a terminal; without a winner, how far the study is."""
    told = tuple(f"{line.question}: {line.answer}" for line in answers(report))
    return told or (_unpromoted(report),)


def remarks(report: StudyReport) -> tuple[str, ...]:
    """What must be known beside the answers, a paragraph each."""
    winner = winner_of(report)
    told: list[str | None] = [_conflicts(report)]
    if winner is None:
        told += [_data(report), _unpromoted(report)]
    else:
        further = (*protocol_verdicts(report), seed_sentence(winner))
        told += [*further, legend(report), _data(report)]
    return tuple(text for text in told if text is not None)


# --- the answers ----------------------------------------------------------------------------


def _model(winner: ModelRecord) -> str:
    backbone, trial = winner.recipe.backbone, winner.trial
    return f"{winner.name} ({backbone}, trial {trial}), chosen by cross-validation alone."


def _how_good(report: StudyReport, winner: ModelRecord) -> str:
    pictures = counted_pictures(report, winner.predictions.indices)
    return (
        f"balanced accuracy {percent(winner.test.balanced_accuracy)} % on the locked test set of "
        f"{pictures}, measured through the exported ONNX file; guessing gives "
        f"{percent(1 / len(report.dataset.classes))} %."
    )


def _how_sure(report: StudyReport, winner: ModelRecord) -> str:
    """The test score's interval, and the winner's curse in figures: inner score minus outer."""
    outer, inner = tested_score(report, winner), cv_score(report, winner)
    if outer.interval is None:
        text = f"no 95 % interval: {outer.why_not}."
    else:
        low, high = outer.interval
        text = f"the 95 % interval of that score is {percent(low)} to {percent(high)} %."
    optimism = cv_optimism(report, winner)
    if inner is None or optimism is None:
        return f"{text} The cross-validated score was not stored."
    text += (
        f" In cross-validation over {len(report.split.folds)} folds it scored "
        f"{in_percent(inner)}: {in_points(optimism, told=outer.why_not)} against the test score."
    )
    if optimism.value > 0:
        trials = counted(len(report.trials), "trial")
        text += f" The best of {trials} owes part of that to luck; its test score does not."
    return text


def _gain(report: StudyReport, winner: ModelRecord) -> str:
    verdict = tuning_verdict(report, told=tested_score(report, winner).why_not)
    assert verdict is not None  # there is a winner
    return verdict


def _how_fast(report: StudyReport, winner: ModelRecord) -> str:
    told = [
        text
        for device in dict.fromkeys(row.device for row in report.latencies)
        for text in _latencies(report, winner, device)
    ]
    return "; ".join(told) + "." if told else "not measured."


def _latencies(report: StudyReport, winner: ModelRecord, device: str) -> Iterator[str]:
    """One picture on one device: the network alone, in each precision, and from its file on."""
    rows, key = report.latencies, winner.architecture_key
    main = latest_row(rows, key, device)
    setup = reference_row(rows, device)
    network = None if setup is None else row_of(winner, rows, setup, batch=1)
    if network is not None:
        yield (
            f"{ms(network.p50_ms)} ms for one picture (median, the network alone, "
            f"{network.precision}) on {network.place} with {counted(network.threads, 'thread')}"
            + _unsteady(network)
        )
    for variant in winner.offered_variants:
        row = latest_row(rows, winner.variant_key(variant), device)
        if row is not None:
            told = f"{ms(row.p50_ms)} ms in {variant.precision}{_unsteady(row)}"
            comparable = main and (row.place, row.threads) == (main.place, main.threads)
            if main and comparable and row.p50_ms >= main.p50_ms:
                told += " (no faster here: use the main file)"
            yield told
    whole = latest_row(rows, key, device, scope="end-to-end")
    if whole is not None:
        yield f"{ms(whole.p50_ms)} ms from picture file to label{_unsteady(whole)}"


def _unsteady(row: LatencyRow) -> str:
    return "" if row.steady else ", an unsteady measurement"


def _files(winner: ModelRecord) -> str:
    others = [_variant_file(variant) for variant in winner.offered_variants]
    told = "; ".join((f"{winner.path} ({winner.size_bytes / 1e6:.1f} MB)", *others)) + "."
    if others:
        told += (
            " What is offered was decided on development pictures; no file should be chosen by its "
            "test score."
        )
    return told


def _variant_file(variant: VariantRecord) -> str:
    text = f"in {variant.precision}: {variant.path} ({variant.size_bytes / 1e6:.1f} MB"
    if variant.test is not None:
        text += f", {percent(variant.test.balanced_accuracy)} % on the test set"
    return f"{text})"


# --- the remarks ----------------------------------------------------------------------------


def _conflicts(report: StudyReport) -> str | None:
    if not report.dataset.conflicts:
        return None
    return (
        f"Labels: {describe_conflicts(report.dataset, 'different ones')}: {CONFLICT_MEANING}. "
        "They are listed in the section on the data; `bench data check` shows them all."
    )


def _data(report: StudyReport) -> str:
    dataset = report.dataset
    kind = "synthetic picture" if dataset.synthetic else "picture"
    states = [trial.state for trial in report.trials]
    return (
        f"The data set {dataset.name} has {counted(len(dataset.pictures), kind)} in "
        f"{counted(len(dataset.classes), 'class', 'classes')} (split: {protocol_name(report)}). "
        f"Trials on {report.device}: {len(states):,} begun, {states.count('COMPLETE'):,} complete, "
        f"{states.count('PRUNED'):,} pruned, {states.count('FAIL'):,} failed."
    )


def _unpromoted(report: StudyReport) -> str:
    trial = best_trial(report.trials)
    if trial is None or trial.value is None:
        return "No trial is complete yet, so there is no score to report."
    return (
        f"No model has been promoted yet, so the test set is still locked. The best trial so far "
        f"is {trial.number} ({trial.recipe.backbone}) with a balanced accuracy of "
        f"{percent(trial.value)} % in cross-validation; `bench promote {report.study}` "
        f"{IN_ITS_WORKSPACE} goes on from here."
    )
