"""What a report says: which model won, by how much, and which records are worth showing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from bench.records import (
    ModelRecord,
    ProtocolScores,
    Recipe,
    Scores,
    StudyReport,
    TrialRecord,
)

RANDOM_WEIGHTS = "random"


def ranked(models: Iterable[ModelRecord]) -> tuple[ModelRecord, ...]:
    """Models by cross-validated score, best first; never by test score, which selects nothing."""

    def order(model: ModelRecord) -> tuple[float, bool, str]:
        score = -math.inf if model.cv_mean is None else model.cv_mean
        return -score, model.role != "best", model.name

    return tuple(sorted(models, key=order))


def winner_of(report: StudyReport) -> ModelRecord | None:
    """The promoted model with the best cross-validated score."""
    return next(iter(ranked(report.models)), None)


def default_of(report: StudyReport) -> ModelRecord | None:
    """The best default recipe by cross-validation: what one would have had without tuning."""
    return next((m for m in ranked(report.models) if m.role == "default"), None)


def trial_of(report: StudyReport, model: ModelRecord) -> TrialRecord | None:
    return next((trial for trial in report.trials if trial.number == model.trial), None)


def labels_of(report: StudyReport) -> tuple[str, ...]:
    """The warnings that every table and figure of the study carries."""
    labels = ["synthetic data"] if report.dataset.synthetic else []
    random = [model.name for model in report.models if model.weights == RANDOM_WEIGHTS]
    if random and len(random) < len(report.models):
        labels.append(f"random weights: {', '.join(random)}")
    elif random or (not report.models and not report.settings.pretrained):
        labels.append("random weights")
    return tuple(labels)


def tuned_parameters(trials: Sequence[TrialRecord]) -> tuple[str, ...]:
    """Names of the recipe's parameters that differ between trials, in the recipe's order."""
    recipes = {trial.recipe for trial in trials}
    return tuple(
        field.name
        for field in fields(Recipe)
        if len({getattr(recipe, field.name) for recipe in recipes}) > 1
    )


def scored(trials: Iterable[TrialRecord]) -> tuple[tuple[TrialRecord, float], ...]:
    """Complete and pruned trials with their finite values."""
    return tuple(
        (trial, trial.value)
        for trial in trials
        if trial.state in ("COMPLETE", "PRUNED")
        and trial.value is not None
        and math.isfinite(trial.value)
    )


def first_score(report: StudyReport) -> tuple[float, float] | None:
    """Seconds from the start of the study to its first complete trial, and that trial's value."""
    timed = [
        (trial.finished_s, value)
        for trial, value in scored(report.trials)
        if trial.state == "COMPLETE" and trial.finished_s is not None
    ]
    return min(timed, default=None)


def standard_error(scores: Scores) -> float:
    """Binomial standard error of a balanced accuracy.

    Balanced accuracy is the mean of the classes' recalls, each a binomial proportion of its
    class's pictures, so a rare class makes the score as uncertain as it should.
    """
    present = [row for row in scores.per_class if row.support]
    if not present:
        return 0.0
    variance = sum(row.recall * (1 - row.recall) / row.support for row in present)
    return math.sqrt(variance) / len(present)


_TWO_SIDED_95 = 1.96  # standard errors to either side of a 95 % interval


def tuning_verdict(report: StudyReport) -> str | None:
    """One sentence: what tuning gained on the test set over the default recipe.

    A difference below the test set's resolution is called none: 1.96 standard errors of a
    difference between two scores, never less than one picture. Both models see the same
    pictures, so this is the cautious side of a paired test.
    """
    winner, default = winner_of(report), default_of(report)
    if winner is None:
        return None
    trial = trial_of(report, winner)
    if trial is not None and trial.is_default:
        return "The default recipe itself won: no tuned trial had a better cross-validated score."
    if default is None:
        return "No default recipe was promoted, so what tuning gained is not known."
    pictures = len(winner.predictions.indices)
    difference = winner.test.balanced_accuracy - default.test.balanced_accuracy
    error = math.hypot(standard_error(winner.test), standard_error(default.test))
    resolution = max(_TWO_SIDED_95 * error, 1 / pictures)
    figures = (
        f"{100 * difference:+.1f} points, {percent(winner.test.balanced_accuracy)} % against "
        f"{percent(default.test.balanced_accuracy)} % on {pictures} test pictures, "
        f"which resolve about {100 * resolution:.1f} points"
    )
    # The tolerance keeps a difference of exactly one picture on the cautious side of rounding.
    if abs(difference) <= resolution + 1e-9:
        return f"No measurable difference from the default recipe ({figures})."
    place = "above" if difference > 0 else "below"
    return f"The tuned winner scored {place} the default recipe ({figures})."


def protocol_verdicts(report: StudyReport) -> tuple[str, ...]:
    """A sentence a further protocol: what it would have promised of the winner's recipe.

    The test sets hold different pictures, so the standard errors of both count.
    """
    winner = winner_of(report)
    if winner is None:
        return ()
    return tuple(
        _protocol_verdict(report, winner, scores)
        for scores in report.protocol_scores
        if scores.model == winner.name
    )


_UNSEEN = {
    "grouped": "pictures of unseen groups get",
    "gtzan-filtered": "the pictures of the fault-filtered test part get",
    "file": "the pictures of the given test part get",
}


def _protocol_verdict(report: StudyReport, winner: ModelRecord, scores: ProtocolScores) -> str:
    searched = report.split.protocol or "random"
    promised, got = scores.test.balanced_accuracy, winner.test.balanced_accuracy
    difference = promised - got
    resolution = _TWO_SIDED_95 * math.hypot(
        standard_error(scores.test), standard_error(winner.test)
    )
    comparison = (
        f"{100 * abs(difference):.1f} points {'more' if difference > 0 else 'less'} than "
        f"{_UNSEEN.get(searched, 'pictures of the random split get')} ({percent(got)} %)"
    )
    if abs(difference) <= resolution + 1e-9:
        comparison += (
            f", which is no measurable difference: the two test sets resolve about "
            f"{100 * resolution:.1f} points"
        )
    return (
        f"A {scores.protocol} split would have promised {percent(promised)} % of the winner's "
        f"recipe: {comparison}."
    )


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def percent_with_sd(mean: float | None, sd: float | None) -> str:
    """``'81.2 ± 2.0'``, without the second part where only one fold was run."""
    if mean is None:
        return "\N{EN DASH}"
    return percent(mean) if sd is None else f"{percent(mean)} ± {percent(sd)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One test picture and what the model said of it; `index` points into the data set."""

    index: int
    label: int
    predicted: int
    probability: float


def examples(model: ModelRecord) -> tuple[Example, ...]:
    """Every test picture with the model's answer, the most confident answers first."""
    predictions = model.predictions
    answers = []
    for index, label, row in zip(
        predictions.indices, predictions.labels, predictions.probabilities, strict=True
    ):
        probability = max(row)
        answers.append(
            Example(
                index=index, label=label, predicted=row.index(probability), probability=probability
            )
        )
    return tuple(sorted(answers, key=lambda answer: (-answer.probability, answer.index)))


def mistakes(model: ModelRecord) -> tuple[Example, ...]:
    """Wrongly classified test pictures, the most confident first."""
    return tuple(answer for answer in examples(model) if answer.predicted != answer.label)


def right_answers(model: ModelRecord) -> tuple[Example, ...]:
    """Rightly classified test pictures: the most confident of each class, then the next ones."""
    seen: dict[int, int] = {}
    turns = []
    for answer in examples(model):
        if answer.predicted == answer.label:
            turns.append((seen.get(answer.label, 0), answer))
            seen[answer.label] = seen.get(answer.label, 0) + 1
    return tuple(answer for _, answer in sorted(turns, key=lambda turn: turn[0]))
