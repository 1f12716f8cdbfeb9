"""Which model won, what is said of it, and which pictures are shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.records import ClassScores, StudyReport
from reports.findings import (
    default_of,
    examples,
    first_score,
    labels_of,
    mistakes,
    protocol_verdicts,
    ranked,
    right_answers,
    scored,
    standard_error,
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
        (1.0, 0.2, "The tuned winner scored above the default recipe (+"),
        (0.2, 1.0, "The tuned winner scored below the default recipe (-"),
        (0.7, 0.7, "No measurable difference from the default recipe (+0.0 points"),
    ],
)
def test_the_verdict_gives_the_sign_and_the_number_of_pictures(
    make_report: MakeReport, winner_accuracy: float, default_accuracy: float, beginning: str
) -> None:
    report = make_report(winner_accuracy=winner_accuracy, default_accuracy=default_accuracy)
    verdict = tuning_verdict(report)
    assert verdict is not None
    assert verdict.startswith(beginning)
    assert "on 9 test pictures" in verdict


def test_a_difference_within_the_resolution_of_the_test_set_is_no_measurable_difference(
    make_report: MakeReport,
) -> None:
    report = make_report(winner_accuracy=0.6, default_accuracy=0.6)
    default, best = report.models
    error = max(1.96 * math.hypot(standard_error(default.test), standard_error(best.test)), 1 / 9)
    for share, measurable in ((0.99, False), (1.01, True)):
        score = default.test.balanced_accuracy + share * error
        shifted = replace(best, test=replace(best.test, balanced_accuracy=score))
        verdict = tuning_verdict(replace(report, models=(default, shifted)))
        assert verdict is not None
        assert verdict.startswith("The tuned winner scored above") is measurable


def test_one_picture_is_never_a_measurable_difference_even_where_recalls_have_no_spread(
    make_report: MakeReport,
) -> None:
    report = make_report(winner_accuracy=1.0, default_accuracy=1.0)
    default, best = report.models
    lower = replace(default, test=replace(default.test, balanced_accuracy=8 / 9))
    assert standard_error(lower.test) == 0.0
    verdict = tuning_verdict(replace(report, models=(lower, best)))
    assert verdict is not None and verdict.startswith("No measurable difference")


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


def test_the_standard_error_of_balanced_accuracy_grows_with_a_rare_class(
    make_report: MakeReport,
) -> None:
    test = make_report().models[0].test

    def error(*supports: int) -> float:
        rows = tuple(
            ClassScores(name="c", precision=0.5, recall=0.5, f1=0.5, support=n) for n in supports
        )
        return standard_error(replace(test, per_class=rows))

    assert error(100) == pytest.approx(0.05)
    assert error(100, 100) == pytest.approx(0.05 / 2**0.5)
    assert error(196, 4) > 2 * error(100, 100)
    assert error(100, 0) == error(100)


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


@pytest.mark.parametrize(("accuracy", "resolved"), [(1.0, True), (0.2, False)])
def test_a_further_protocol_says_what_it_would_have_promised(
    make_report: MakeReport, accuracy: float, resolved: bool
) -> None:
    report = with_protocols(make_report(winner_accuracy=0.2), accuracy)
    (promised,) = {scores.test.balanced_accuracy for scores in report.protocol_scores}
    (verdict,) = protocol_verdicts(report)
    assert verdict.startswith(
        f"A random split would have promised {100 * promised:.1f} % of the winner's recipe: "
    )
    assert " than pictures of unseen groups get (" in verdict
    assert ("no measurable difference" not in verdict) == resolved


def test_without_further_protocols_nothing_is_said_of_them(make_report: MakeReport) -> None:
    assert protocol_verdicts(make_report()) == ()
