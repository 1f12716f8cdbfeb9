"""Which model won, what is said of it, and which pictures are shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.records import GTZAN_GENRES, SourceKind, StudyReport, ranked
from reports.findings import (
    default_of,
    examples,
    first_score,
    labels_of,
    leak_warning,
    mistakes,
    protocol_verdicts,
    right_answers,
    scored,
    seed_sentence,
    tuned_parameters,
    tuning_verdict,
    winner_of,
)
from tests.reports.conftest import with_protocols

MakeReport = Callable[..., StudyReport]


def test_the_winner_is_chosen_by_cross_validation_even_where_another_tests_better(
    make_report: MakeReport,
) -> None:
    report = make_report(winner_accuracy=0.5, default_accuracy=0.9)
    winner, default = winner_of(report), default_of(report)
    assert winner is not None and default is not None
    assert (winner.name, default.name) == ("best", "default")
    assert winner.test.balanced_accuracy < default.test.balanced_accuracy


def test_a_model_without_a_cross_validated_score_ranks_last(make_report: MakeReport) -> None:
    default, best = make_report().models
    assert [m.name for m in ranked([replace(best, cv_mean=None), default])] == ["default", "best"]


@pytest.mark.parametrize(
    ("winner_accuracy", "default_accuracy", "beginning"),
    [
        (
            0.9,
            0.2,
            "Tuning beat the default recipe beyond chance: 90.0 against 20.0 %, +70.0 points (95 %",
        ),
        (
            0.2,
            0.9,
            "The tuned winner is worse than the default recipe, beyond chance: "
            "20.0 against 90.0 %, -70.0 points (95 %",
        ),
        (
            0.7,
            0.7,
            "Tuning did not beat the default recipe beyond chance: "
            "70.0 against 70.0 %, +0.0 points (95 %",
        ),
    ],
)
def test_the_verdict_rests_on_the_paired_test_and_says_on_what(
    make_report: MakeReport, winner_accuracy: float, default_accuracy: float, beginning: str
) -> None:
    report = make_report(
        per_class=80,
        grouped=True,
        winner_accuracy=winner_accuracy,
        default_accuracy=default_accuracy,
    )
    verdict = tuning_verdict(report)
    assert verdict is not None
    assert verdict.startswith(beginning)
    assert "paired on the 60 pictures in 30 groups of the test set" in verdict


def test_two_pictures_of_nine_are_within_chance(make_report: MakeReport) -> None:
    verdict = tuning_verdict(make_report(winner_accuracy=0.9, default_accuracy=0.7))
    assert verdict is not None
    assert verdict.startswith("Tuning did not beat the default recipe beyond chance: ")
    assert "+22.2 points (95 % interval: " in verdict
    assert verdict.endswith("undecided.")
    assert "9 pictures without groups" in verdict


def test_a_test_set_that_is_too_small_for_the_test_is_said_to_be(make_report: MakeReport) -> None:
    report = make_report(per_class=8, winner_accuracy=1.0, default_accuracy=0.1)
    verdict = tuning_verdict(report)
    assert verdict is not None
    assert verdict.startswith("Whether tuning beat the default recipe cannot be told")
    assert "no interval: only 2 pictures of a class were tested" in verdict


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ((), None),
        (
            (0.6, 0.7),
            "Trained with 3 seeds it scored 80.0, 60.0, 70.0 % on the test set: mean 70.0 %, "
            "standard deviation 10.0 points.",
        ),
    ],
)
def test_the_spread_over_seeds_is_told_where_there_are_several(
    make_report: MakeReport, accuracies: tuple[float, ...], said: str | None
) -> None:
    report = make_report(per_class=40, seed_accuracies=accuracies)
    sentence = seed_sentence(report.models[1])
    assert sentence is said if said is None else (sentence or "").startswith(said)


@pytest.mark.parametrize(
    ("names", "kind", "synthetic", "accuracy", "cv_mean", "warned"),
    [
        (GTZAN_GENRES, "folder", False, 1.0, 0.8, True),
        (GTZAN_GENRES, "folder", False, 0.9, 0.96, True),
        (("a", "b", "c"), "gtzan", False, 1.0, 0.8, True),
        (GTZAN_GENRES, "folder", False, 0.9, 0.95, False),
        (GTZAN_GENRES, "gtzan", True, 1.0, 1.0, False),
        (("a", "b", "c"), "folder", False, 1.0, 1.0, False),
    ],
)
def test_above_95_per_cent_on_gtzan_a_leak_is_suspected(
    make_report: MakeReport,
    names: tuple[str, ...],
    kind: SourceKind,
    synthetic: bool,
    accuracy: float,
    cv_mean: float,
    warned: bool,
) -> None:
    report = make_report(names=names, synthetic=synthetic, winner_accuracy=accuracy)
    default, best = report.models
    report = replace(
        report,
        dataset=replace(report.dataset, kind=kind),
        models=(default, replace(best, cv_mean=cv_mean)),
    )
    warning = leak_warning(report)
    assert (warning is not None) is warned
    if warning is not None:
        assert "Sturm, 2013" in warning


def test_a_default_recipe_that_wins_is_said_to_have_won(make_report: MakeReport) -> None:
    report = make_report()
    default, best = report.models
    winning = replace(report, models=(replace(default, cv_mean=0.95), best))
    assert "default recipe itself won" in (tuning_verdict(winning) or "")


def test_without_a_promoted_default_no_gain_is_claimed(make_report: MakeReport) -> None:
    report = make_report()
    verdict = tuning_verdict(replace(report, models=report.models[1:]))
    assert verdict == "No default recipe was promoted, so what tuning gained is not known."


def test_the_first_score_is_that_of_the_complete_trial_that_ended_first(
    make_report: MakeReport,
) -> None:
    report = make_report()
    late, pruned, early, *_ = report.trials
    trials = (
        replace(late, value=0.5, finished_s=90.0),
        replace(pruned, value=0.3, finished_s=5.0),
        replace(early, value=0.4, finished_s=20.0),
    )
    assert first_score(replace(report, trials=trials)) == (20.0, 0.4)
    assert first_score(replace(report, trials=(pruned,))) is None


@pytest.mark.parametrize(
    ("synthetic", "weights", "expected"),
    [
        (False, "timm", ()),
        (True, "timm", ("synthetic data",)),
        (False, "random", ("random weights",)),
        (True, "random", ("synthetic data", "random weights")),
    ],
)
@pytest.mark.parametrize("promoted", [True, False])
def test_labels_tell_of_synthetic_data_and_random_weights(
    make_report: MakeReport,
    synthetic: bool,
    weights: str,
    expected: tuple[str, ...],
    promoted: bool,
) -> None:
    report = make_report(synthetic=synthetic, weights=weights, promoted=promoted)
    assert labels_of(report) == expected


def test_where_only_some_models_began_from_random_weights_they_are_named(
    make_report: MakeReport,
) -> None:
    report = make_report()
    default, best = report.models
    mixed = replace(report, models=(replace(default, weights="random"), best))
    assert labels_of(mixed) == ("random weights: default",)


def test_a_parameter_is_tuned_when_trials_differ_in_it(make_report: MakeReport) -> None:
    trials = make_report().trials
    assert "learning_rate" in tuned_parameters(trials)
    assert "mixup" not in tuned_parameters(trials)
    assert tuned_parameters(trials[:1]) == ()


def test_failed_trials_and_values_that_are_no_numbers_have_no_score(
    make_report: MakeReport,
) -> None:
    first, *rest = make_report(trials=5).trials
    numbers = [trial.number for trial, _ in scored([replace(first, value=float("nan")), *rest])]
    assert numbers == [1, 2, 3]


def test_the_most_confident_mistakes_come_first(make_report: MakeReport) -> None:
    winner = make_report(winner_accuracy=0.2).models[1]
    wrong = mistakes(winner)
    assert len(wrong) == sum(
        count
        for true, row in enumerate(winner.test.confusion)
        for predicted, count in enumerate(row)
        if true != predicted
    )
    confidences = [answer.probability for answer in wrong]
    assert len(set(confidences)) > 1
    assert confidences == sorted(confidences, reverse=True)


def test_right_answers_show_every_class_before_any_class_twice(make_report: MakeReport) -> None:
    winner = make_report(winner_accuracy=1.0).models[1]
    labels = [answer.label for answer in right_answers(winner)]
    assert sorted(labels[:3]) == [0, 1, 2]
    assert len(labels) == len(examples(winner)) == 9


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        (0.9, "), a difference beyond chance."),
        (0.3, "), no measurable difference between the two test sets."),
    ],
)
def test_a_further_protocol_says_what_it_would_have_promised(
    make_report: MakeReport, accuracy: float, said: str
) -> None:
    report = with_protocols(make_report(winner_accuracy=0.2, per_class=40), accuracy)
    (promised,) = {scores.test.balanced_accuracy for scores in report.protocol_scores}
    (verdict,) = protocol_verdicts(report)
    assert verdict.startswith(
        f"A random split would have promised {100 * promised:.1f} % of the winner's recipe, where "
        "pictures of unseen groups get "
    )
    assert verdict.endswith(said)


def test_a_further_protocol_with_too_few_groups_to_tell_says_so(make_report: MakeReport) -> None:
    (verdict,) = protocol_verdicts(with_protocols(make_report(grouped=True), 0.9))
    assert "points (no interval: only 2 groups of a class were tested" in verdict


def test_without_further_protocols_nothing_is_said_of_them(make_report: MakeReport) -> None:
    assert protocol_verdicts(make_report()) == ()
