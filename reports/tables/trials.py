"""The trials of a study: how many, each one, and what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.records import StudyReport, TrialRecord, best_trial
from bench.statistics.intervals import cross_validated
from reports.findings import tuned_parameters
from reports.scores import NOTHING, TIE, Marks, against_best, few_folds_note, percent, percent_cell
from reports.table import LIST_LIMIT, Table, and_more, caption_of, shown

TRIALS_LIMIT = 200  # above it only the best ones and the last ones are shown
BEST_TRIALS = 100
LAST_TRIALS = 20
ERROR_CHARACTERS = 300


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
    marks = Marks()
    rows = tuple(_trial_cells(trial, report, tuned, best, marks) for trial in shown)
    return Table(
        caption=caption_of(report, "Trials"),
        headers=(
            "trial",
            "state",
            "value, %",
            "against the best",
            "folds",
            "backbone",
            "parameters",
            "seconds",
        ),
        rows=rows,
        footnotes=(
            *footnotes,
            *marks.notes,
            "Brackets hold 95 % intervals of the corrected resampled t over the folds; a pruned "
            "trial's value is a running mean and has none. A tie: fold by fold, the trial is "
            "neither better nor worse than the best complete trial for certain.",
            *few_folds_note(report),
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
        f"Of {len(by_number):,} trials the best {BEST_TRIALS} by value and the last {LAST_TRIALS} "
        "are shown; report.json holds all."
    )
    return (*best, *last), (note,)


def _trial_cells(
    trial: TrialRecord,
    report: StudyReport,
    tuned: Sequence[str],
    best: TrialRecord | None,
    marks: Marks,
) -> tuple[str, ...]:
    state = trial.state.lower() + (" (default)" if trial.is_default else "")
    return (
        str(trial.number),
        state,
        _trial_value(trial, marks),
        _against_best(trial, best),
        f"{_finished_folds(trial, report)} of {len(report.split.folds)}",
        trial.recipe.backbone,
        ", ".join(f"{name} {shown(getattr(trial.recipe, name))}" for name in tuned) or NOTHING,
        f"{trial.seconds:.0f}",
    )


def _trial_value(trial: TrialRecord, marks: Marks) -> str:
    if trial.value is None:
        return NOTHING
    if trial.state != "COMPLETE":
        return percent(trial.value)
    score = cross_validated(trial.value, trial.cv_sd, len(trial.fold_scores))
    return percent_cell(score, marks)


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
        footnotes=and_more(len(told)),
    )


def _shortened(text: str) -> str:
    """The text on one line; of a long one the end, where a traceback names its error."""
    line = " ".join(text.split())
    return line if len(line) <= ERROR_CHARACTERS else "… " + line[-ERROR_CHARACTERS:]
