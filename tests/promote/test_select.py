from __future__ import annotations

import pytest

from bench.errors import BenchError
from bench.promote.select import Candidate, select, winner_and_default
from bench.records import Recipe, Role, TrialRecord, TrialState
from tests.records import epoch_scores, trial_record


def trial(
    number: int,
    value: float | None,
    *,
    backbone: str = "resnet50",
    state: TrialState = "COMPLETE",
    default: bool = False,
) -> TrialRecord:
    """A trial of two folds, 0.1 better and worse than its value."""
    folds = () if value is None else ((0, value + 0.1), (1, value - 0.1))
    return trial_record(
        *(epoch_scores(fold, 0, score) for fold, score in folds),
        number=number,
        state=state,
        value=value,
        recipe=Recipe(backbone=backbone, learning_rate=1e-4 * (number + 1)),
        is_default=default,
    )


def chosen(*trials: TrialRecord) -> list[tuple[str, Role, int]]:
    return [(c.recipe.backbone, c.role, c.trial) for c in select(trials)]


def test_the_best_trial_of_each_backbone_is_chosen_by_cross_validation() -> None:
    assert chosen(
        trial(0, 0.5),
        trial(1, 0.7),
        trial(2, 0.6),
        trial(3, 0.4, backbone="xception"),
        trial(4, 0.3, backbone="xception"),
    ) == [("resnet50", "best", 1), ("xception", "best", 3)]


@pytest.mark.parametrize("state", ["COMPLETE", "PRUNED"])
def test_the_default_recipe_goes_with_it_even_if_it_was_pruned(state: TrialState) -> None:
    assert chosen(trial(0, 0.5, default=True, state=state), trial(1, 0.7)) == [
        ("resnet50", "best", 1),
        ("resnet50", "default", 0),
    ]


def test_a_default_recipe_that_is_the_best_is_not_chosen_twice() -> None:
    assert chosen(trial(0, 0.8, default=True), trial(1, 0.7)) == [("resnet50", "best", 0)]


def test_a_default_recipe_that_failed_is_left_out() -> None:
    assert chosen(trial(0, None, default=True, state="FAIL"), trial(1, 0.7)) == [
        ("resnet50", "best", 1)
    ]


def test_of_equals_the_first_is_the_best() -> None:
    assert chosen(trial(3, 0.7), trial(1, 0.7), trial(2, 0.7)) == [("resnet50", "best", 1)]


def test_a_pruned_trial_is_never_the_best_however_high_its_value() -> None:
    assert chosen(trial(0, 0.9, state="PRUNED"), trial(1, 0.2)) == [("resnet50", "best", 1)]


def test_a_backbone_without_a_complete_trial_is_left_out() -> None:
    assert chosen(
        trial(0, 0.9, state="PRUNED", default=True),
        trial(1, 0.5, backbone="xception"),
    ) == [("xception", "best", 1)]


def test_a_candidate_carries_its_folds_mean_and_spread_unless_it_was_pruned() -> None:
    best, default = select([trial(0, 0.5, default=True, state="PRUNED"), trial(1, 0.7)])

    assert best.cv_mean == pytest.approx(0.7)
    assert best.cv_sd == pytest.approx(0.02**0.5)
    assert (default.cv_mean, default.cv_sd) == (None, None)


def test_a_candidates_name_can_be_a_folders() -> None:
    (candidate,) = select([trial(0, 0.5, backbone="hf-hub:some/net")])

    assert isinstance(candidate, Candidate)
    assert candidate.name == "hf-hub:some-net-best"


@pytest.mark.parametrize(
    "trials", [[], [trial(0, 0.4, state="PRUNED")], [trial(0, None, state="FAIL")]]
)
def test_nothing_complete_is_nothing_to_promote(trials: list[TrialRecord]) -> None:
    with pytest.raises(BenchError, match="more --trials, a longer --timeout or") as nothing:
        select(trials)
    assert nothing.value.exit_code == 1, "a search that came to a limit was asked for rightly"


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([trial(0, 0.5, default=True), trial(1, 0.7)], [1, 0]),
        ([trial(0, 0.8, default=True), trial(1, 0.7)], [0]),
        (
            [
                trial(0, 0.5, default=True),
                trial(1, 0.6),
                trial(2, 0.4, default=True, backbone="legacy_xception"),
                trial(3, 0.9, backbone="legacy_xception"),
            ],
            [3, 0],
        ),
    ],
    ids=["tuned winner", "the default won", "two backbones"],
)
def test_winner_and_best_default_are_those_of_the_whole_study(
    trials: list[TrialRecord], expected: list[int]
) -> None:
    assert [candidate.trial for candidate in winner_and_default(select(trials))] == expected
