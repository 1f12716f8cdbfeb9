"""Scores in words: per cent with their 95 % intervals, and the unit that was resampled."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records import (
    Dataset,
    Estimate,
    ModelRecord,
    Predictions,
    ProtocolScores,
    StudyReport,
    TrialRecord,
)
from bench.statistics.answers import Answers, answers_of, groups_of
from bench.statistics.comparisons import (
    Comparison,
    Verdict,
    on_folds,
    on_other_pictures,
    on_test_pictures,
)
from bench.statistics.intervals import (
    Metric,
    balanced_accuracy,
    bootstrap,
    cross_validated,
    optimism,
)
from bench.words import counted

NOTHING = "\N{EN DASH}"
TIE: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "equal in practice": "tie: equal in practice",
    "undecided": "tie: undecided",
}


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


# --- estimates of a study -------------------------------------------------------------------


def answers(report: StudyReport, predictions: Predictions) -> Answers:
    return answers_of(predictions, report.dataset)


def tested_score(
    report: StudyReport, model: ModelRecord | ProtocolScores, metric: Metric = balanced_accuracy
) -> Estimate:
    return bootstrap(answers(report, model.predictions), metric)


def cv_score(report: StudyReport, model: ModelRecord | ProtocolScores) -> Estimate | None:
    if model.cv_mean is None:
        return None
    return cross_validated(model.cv_mean, model.cv_sd, len(report.split.folds))


def cv_optimism(report: StudyReport, model: ModelRecord) -> Estimate | None:
    """The cross-validated score of a model minus its test score."""
    if model.cv_mean is None:
        return None
    return optimism(
        model.cv_mean,
        model.cv_sd,
        len(report.split.folds),
        answers(report, model.predictions),
    )


def against(report: StudyReport, model: ModelRecord, other: ModelRecord) -> Comparison:
    """The paired comparison of two models on the test pictures."""
    return on_test_pictures(answers(report, model.predictions), answers(report, other.predictions))


def against_searched(report: StudyReport, scores: ProtocolScores, model: ModelRecord) -> Comparison:
    """A recipe's test score under a further protocol against that under the searched one."""
    return on_other_pictures(
        answers(report, scores.predictions), answers(report, model.predictions)
    )


def against_best(trial: TrialRecord, best: TrialRecord) -> Comparison | None:
    """The paired comparison of two complete trials over their folds; None of any other."""
    if trial.state != "COMPLETE" or len(trial.fold_scores) != len(best.fold_scores):
        return None
    return on_folds(trial.fold_scores, best.fold_scores)


# --- in tables ------------------------------------------------------------------------------


class Marks:
    """Stand in the cells of one table for intervals that are missing; notes below tell why.

    A mark a reason, so that cells stay short and each reason is told once.
    """

    def __init__(self) -> None:
        self._reasons: list[str] = []

    def beside(self, estimate: Estimate) -> str:
        """``' ¹'`` for the first reason; nothing where there is an interval."""
        if estimate.interval is not None:
            return ""
        reason = estimate.why_not or "not recorded"
        if reason not in self._reasons:
            self._reasons.append(reason)
        return f" {_mark(self._reasons.index(reason) + 1)}"

    @property
    def notes(self) -> tuple[str, ...]:
        """To be asked for when all cells are filled."""
        return tuple(
            f"{_mark(number)} No 95 % interval: {reason}."
            for number, reason in enumerate(self._reasons, start=1)
        )


def _mark(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def percent_cell(estimate: Estimate | None, marks: Marks) -> str:
    """``'81.2 [74.0, 87.1]'``, in per cent; a dash where nothing is known."""
    if estimate is None:
        return NOTHING
    return _cell(estimate, marks, ".1f", 100)


def points_cell(estimate: Estimate, marks: Marks) -> str:
    """A difference in points, with its sign: ``'+2.1 [-1.0, +5.2]'``."""
    return _cell(estimate, marks, "+.1f", 100)


def loss_cell(estimate: Estimate, marks: Marks) -> str:
    """A loss as it is: ``'0.412 [0.350, 0.498]'``."""
    return _cell(estimate, marks, ".3f")


def loss_change_cell(estimate: Estimate, marks: Marks) -> str:
    """``'-0.021 [-0.040, -0.004]'``."""
    return _cell(estimate, marks, "+.3f")


def _cell(estimate: Estimate, marks: Marks, form: str, scale: float = 1) -> str:
    value = f"{scale * estimate.value:{form}}"
    if estimate.interval is None:
        return f"{value}{marks.beside(estimate)}"
    low, high = (scale * end for end in estimate.interval)
    return f"{value} [{low:{form}}, {high:{form}}]"


# --- in sentences ---------------------------------------------------------------------------


def in_percent(estimate: Estimate) -> str:
    """``'81.2 % (95 % interval: 74.0 to 87.1 %)'``, or why it has none."""
    if estimate.interval is None:
        return f"{percent(estimate.value)} % (no interval: {estimate.why_not})"
    low, high = map(percent, estimate.interval)
    return f"{percent(estimate.value)} % (95 % interval: {low} to {high} %)"


def in_points(estimate: Estimate, *, told: str | None = None) -> str:
    """``'+2.1 points (95 % interval: -1.0 to +5.2)'``, or why it has none.

    told: why another score has no interval, if the reader was told; it is not repeated.
    """
    value = f"{100 * estimate.value:+.1f} points"
    if estimate.interval is not None:
        low, high = (f"{100 * end:+.1f}" for end in estimate.interval)
        return f"{value} (95 % interval: {low} to {high})"
    if estimate.why_not == told:
        return f"{value} (no interval either)"
    return f"{value} (no interval: {estimate.why_not})"


# --- what was resampled ---------------------------------------------------------------------


def groups_given(dataset: Dataset) -> bool:
    """Whether somebody named groups: found duplicates are groups as well, of another kind."""
    return any(p.group is not None for p in dataset.pictures) and not dataset.ties_are_found


def counted_pictures(report: StudyReport, indices: Sequence[int]) -> str:
    """``'60 pictures in 15 groups'``, or that no groups were given."""
    numbers, _ = groups_of(report.dataset, indices)
    pictures, apart = counted(len(indices), "picture"), len(set(numbers.tolist()))
    if groups_given(report.dataset):
        return f"{pictures} in {counted(apart, 'group')}"
    if apart < len(indices):
        return f"{pictures} ({apart:,} counting duplicates once)"
    return f"{pictures} without groups"


FEW_FOLDS = 3  # up to which the t quantile makes an interval too wide to say much


def few_folds_note(report: StudyReport) -> tuple[str, ...]:
    """Why intervals in cross-validation are as wide as they are, where folds are few."""
    folds = len(report.split.folds)
    if folds > FEW_FOLDS:
        return ()
    return (
        f"{folds} folds are too few to tell a cross-validated score more closely than its wide "
        "interval does.",
    )


def legend(report: StudyReport) -> str:
    """What the brackets mean, and what was resampled."""
    resampled = (
        "whole groups, since pictures of one group are right or wrong together"
        if groups_given(report.dataset)
        else "single pictures (duplicates as one), since no groups were given; if pictures belong "
        "together in truth, the intervals are too narrow"
    )
    return (
        "Brackets hold 95 % intervals. On the test set: a BCa bootstrap that resamples "
        f"{resampled} (Wilson's interval where too few differ for that). In cross-validation: the "
        "corrected resampled t over the folds."
    )
