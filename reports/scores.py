"""Scores in words: per cent with their 95 % intervals, and the unit that was resampled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
NO_INTERVAL = "[none]"
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


# --- words ----------------------------------------------------------------------------------


def with_interval(estimate: Estimate | None) -> str:
    """``'81.2 [74.0, 87.1]'``, in per cent; a dash where nothing is known."""
    if estimate is None:
        return NOTHING
    if estimate.interval is None:
        return f"{percent(estimate.value)} {NO_INTERVAL}"
    low, high = estimate.interval
    return f"{percent(estimate.value)} [{percent(low)}, {percent(high)}]"


def points(estimate: Estimate) -> str:
    """A difference in points, with its sign: ``'+2.1 [-1.0, +5.2]'``."""
    value, *bounds = (
        f"{100 * share:+.1f}" for share in (estimate.value, *(estimate.interval or ()))
    )
    return f"{value} [{', '.join(bounds)}]" if bounds else f"{value} {NO_INTERVAL}"


def plain(estimate: Estimate, form: str = ".3f") -> str:
    """A loss with its interval, as it is: ``'0.412 [0.350, 0.498]'``."""
    if estimate.interval is None:
        return f"{estimate.value:{form}} {NO_INTERVAL}"
    low, high = estimate.interval
    return f"{estimate.value:{form}} [{low:{form}}, {high:{form}}]"


def signed(estimate: Estimate) -> str:
    """The change of a loss: ``'-0.021 [-0.040, -0.004]'``."""
    return plain(estimate, "+.3f")


def reasons(estimates: Iterable[Estimate | None]) -> tuple[str, ...]:
    """What `NO_INTERVAL` stands for, once each."""
    told = dict.fromkeys(
        estimate.why_not for estimate in estimates if estimate is not None and estimate.why_not
    )
    return tuple(f"{NO_INTERVAL}: {reason}." for reason in told)


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


def legend(report: StudyReport) -> str:
    """What the brackets mean, and what was resampled."""
    resampled = (
        "whole groups, since pictures of one group are right or wrong together"
        if groups_given(report.dataset)
        else "single pictures (duplicates as one), since no groups were given: if pictures belong "
        "together in truth, the intervals are too narrow"
    )
    return (
        "Brackets hold 95 % intervals: on the test set by a BCa bootstrap (Wilson's interval where "
        f"too few differ for that) that resamples {resampled}; in cross-validation by the "
        "corrected resampled t over the folds."
    )
