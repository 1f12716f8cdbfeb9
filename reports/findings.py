"""What a report says: which model won, by how much, and which records are worth showing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from statistics import fmean, stdev

from bench.records import (
    ModelRecord,
    ProtocolScores,
    Recipe,
    StudyReport,
    TrialRecord,
    ranked,
)
from reports.scores import against, against_searched, counted_pictures, in_points, percent

RANDOM_WEIGHTS = "random"


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


def tuning_verdict(report: StudyReport, *, told: str | None = None) -> str | None:
    """Whether tuning beat the default recipe on the test set, by the paired test over groups.

    told: why another score has no interval, if the reader was told; it is not repeated.
    """
    winner, default = winner_of(report), default_of(report)
    if winner is None:
        return None
    trial = trial_of(report, winner)
    if trial is not None and trial.is_default:
        return "The default recipe itself won: no tuned trial had a better cross-validated score."
    if default is None:
        return "No default recipe was promoted, so what tuning gained is not known."
    comparison = against(report, winner, default)
    difference = comparison.difference
    if difference.interval is None:
        outcome = "Whether tuning beat the default recipe cannot be told"
    elif not comparison.beyond_chance:
        outcome = "Tuning did not beat the default recipe beyond chance"
    elif difference.value > 0:
        outcome = "Tuning beat the default recipe beyond chance"
    else:
        outcome = "The tuned winner is worse than the default recipe, beyond chance"
    pictures = counted_pictures(report, winner.predictions.indices)
    scores = (percent(model.test.balanced_accuracy) for model in (winner, default))
    text = (
        f"{outcome}: {' against '.join(scores)} %, {in_points(difference, told=told)}, paired on "
        f"the {pictures} of the test set."
    )
    if comparison.probabilities is None:
        return text
    worse, equal, better = (f"{100 * share:.0f} %" for share in comparison.probabilities)
    return (
        f"{text} Probabilities: {better} better by more than a point, {worse} worse by more than a "
        f"point, {equal} within a point: {comparison.verdict}."
    )


def protocol_verdicts(report: StudyReport) -> tuple[str, ...]:
    """A sentence a further protocol: what it would have promised of the winner's recipe.

    The test sets hold different pictures, so the comparison is not paired.
    """
    winner = winner_of(report)
    if winner is None:
        return ()
    return tuple(
        _protocol_verdict(report, winner, scores)
        for scores in report.protocol_scores
        if scores.model == winner.name
    )


def _unseen(report: StudyReport) -> str:
    """What the pictures are that the winner's test score was taken on."""
    match report.split.protocol:
        case "grouped" if report.dataset.ties_are_found:
            return "pictures without a duplicate in training"
        case "grouped":
            return "pictures of unseen groups"
        case "gtzan-filtered":
            return "the pictures of the fault-filtered test part"
        case "file":
            return "the pictures of the given test part"
        case _:
            return "pictures of the random split"


def _protocol_verdict(report: StudyReport, winner: ModelRecord, scores: ProtocolScores) -> str:
    promised, got = scores.test.balanced_accuracy, winner.test.balanced_accuracy
    comparison = against_searched(report, scores, winner)
    difference = comparison.difference
    text = (
        f"A {scores.protocol} split would have promised {percent(promised)} % of the winner's "
        f"recipe, where {_unseen(report)} get {percent(got)} %: {in_points(difference)}"
    )
    if difference.interval is None:
        return f"{text}."
    if comparison.beyond_chance:
        return f"{text}, a difference beyond chance."
    return f"{text}, no measurable difference between the two test sets."


def seed_scores(model: ModelRecord) -> tuple[float, ...]:
    """Test scores of a model over its seeds, that of the file which ships first."""
    return (
        model.test.balanced_accuracy,
        *(run.test.balanced_accuracy for run in model.further_seeds),
    )


def seed_sentence(model: ModelRecord) -> str | None:
    """How far the test score depends on the seed of the training; None of a single seed."""
    scores = seed_scores(model)
    if len(scores) < 2:
        return None
    shown = ", ".join(percent(score) for score in scores)
    return (
        f"Trained with {len(scores)} seeds it scored {shown} % on the test set: mean "
        f"{percent(fmean(scores))} %, standard deviation {100 * stdev(scores):.1f} points. The "
        "first is the file that ships; no seed was chosen by its score."
    )


LEAK_SUSPECTED_ABOVE = 0.95


def leak_warning(report: StudyReport) -> str | None:
    """Doubt scores on GTZAN that its own wrong labels rule out; None where there is no cause."""
    dataset, winner = report.dataset, winner_of(report)
    is_gtzan = (dataset.kind == "gtzan" or dataset.is_gtzan) and not dataset.synthetic
    if winner is None or not is_gtzan:
        return None
    best = max(winner.test.balanced_accuracy, winner.cv_mean or 0.0)
    if best <= LEAK_SUSPECTED_ABOVE:
        return None
    return (
        f"Look for a leak: {percent(best)} % on GTZAN. Its replicas, repeated recordings and wrong "
        'labels keep even a perfect system at about 94.5 % (Sturm, 2013, "The GTZAN dataset: its '
        'contents, its faults, their effects on evaluation, and its future use"), and more '
        "comes of recordings or artists that stand on both sides of the split."
    )


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
