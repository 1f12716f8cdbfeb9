"""Racing stops what is worse beyond chance, and leaves what is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from bench.database import Database
from bench.progress import SilentProgress
from bench.records import StudyPlan
from bench.results import load_trials
from bench.search.budget import Budget
from bench.search.coordinator import Coordinator
from bench.search.executors import make_executor
from bench.search.racing import ALPHA, Floats, Race, groups_by_fold, is_worse, log_losses
from bench.search.study import open_study
from bench.space import SearchSpace
from bench.workspace import describe_environment
from tests.tiny import SPACE, make_plan, write_pictures


def test_losses_are_of_the_true_class_and_clipped() -> None:
    probabilities = np.asarray([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    losses = log_losses(np.asarray([0, 0, 0]), probabilities)
    assert losses == pytest.approx([np.log(2), 0.0, 5.0])


@pytest.mark.parametrize(
    ("shift", "worse"),
    [(0.5, True), (0.0, False), (-0.5, False)],
    ids=["clearly worse", "equal but for noise", "clearly better"],
)
def test_a_shift_that_noise_cannot_hide_is_seen(shift: float, worse: bool) -> None:
    rng = np.random.default_rng(0)
    best = rng.gamma(1.0, size=100)
    trial = best + shift + rng.normal(scale=0.3, size=100)
    assert is_worse(trial, best, range(100)) is worse


def test_an_equal_trial_is_stopped_no_more_often_than_stated() -> None:
    rng = np.random.default_rng(1)
    draws = 1000
    stopped = sum(
        is_worse(rng.gamma(1.0, size=80), rng.gamma(1.0, size=80), range(80)) for _ in range(draws)
    )
    # Three standard errors of a share of ALPHA among so many draws.
    assert abs(stopped / draws - ALPHA) < 3 * np.sqrt(ALPHA * (1 - ALPHA) / draws)


def test_pictures_of_one_group_count_once() -> None:
    """Forty clips of one unlucky recording are one piece of evidence, not forty."""
    best = np.zeros(44)
    trial = np.concatenate([np.full(40, 2.0), [0.1, -0.1, 0.1, -0.1]])
    assert is_worse(trial, best, range(44))
    assert not is_worse(trial, best, ["one"] * 40 + ["a", "b", "c", "d"])


@pytest.mark.parametrize(("difference", "worse"), [(0.0, False), (0.2, True), (-0.2, False)])
def test_a_constant_difference_needs_no_statistics(difference: float, worse: bool) -> None:
    assert is_worse(np.full(5, 1.0 + difference), np.ones(5), range(5)) is worse


# --- the rule of a study --------------------------------------------------------------------

EPOCHS = 2
GOOD, BAD = np.linspace(0.1, 0.3, 30), np.linspace(0.8, 1.2, 30)  # losses of a fold's pictures


def study_of(*curves: tuple[TrialState, list[float]]) -> optuna.Study:
    """A study of trials with these balanced accuracies, the running mean after each fold."""
    study = optuna.create_study(direction="maximize")
    for state, means in curves:
        reports = {(fold + 1) * EPOCHS - 1: mean for fold, mean in enumerate(means)}
        value = means[-1] if state == TrialState.COMPLETE else None
        study.add_trial(
            optuna.trial.create_trial(state=state, value=value, intermediate_values=reports)
        )
    return study


def race_of(study: optuna.Study, losses: dict[int, Floats | None]) -> Race:
    """Each trial has the same losses in both folds; pictures are their own groups."""
    groups = [list(range(30)), list(range(30, 60))]
    return Race(study, groups, lambda number, _fold: losses[number], epochs=EPOCHS)


@pytest.mark.parametrize(
    ("mean", "losses", "lost"),
    [
        (0.5, BAD, True),
        (0.8, BAD, True),
        (0.9, BAD, False),  # ahead in what the study maximises
        (0.5, GOOD, False),
        (0.5, None, False),
    ],
    ids=["behind", "level", "ahead but of greater loss", "behind but of equal loss", "unreadable"],
)
@pytest.mark.parametrize("last_fold", [0, 1])
def test_a_race_is_lost_by_greater_losses_of_a_trial_that_is_not_ahead(
    mean: float, losses: Floats | None, lost: bool, last_fold: int
) -> None:
    study = study_of(
        (TrialState.COMPLETE, [0.8, 0.8]), (TrialState.RUNNING, [mean] * (last_fold + 1))
    )
    assert race_of(study, {0: GOOD, 1: losses}).is_lost(1, last_fold) is lost


@pytest.mark.parametrize("others", [[], [(TrialState.PRUNED, [0.9])]], ids=["none", "pruned"])
def test_there_is_no_race_before_a_trial_is_complete(
    others: list[tuple[TrialState, list[float]]],
) -> None:
    study = study_of(*others, (TrialState.RUNNING, [0.1]))
    assert not race_of(study, {0: GOOD, 1: BAD}).is_lost(len(others), 0)


def test_a_race_is_against_the_best_complete_trial_of_all_folds() -> None:
    """Not against the best of the finished folds alone, which luck would choose."""
    study = study_of(
        (TrialState.COMPLETE, [0.9, 0.6]),
        (TrialState.COMPLETE, [0.7, 0.8]),
        (TrialState.RUNNING, [0.6]),
    )
    assert not race_of(study, {0: GOOD, 1: BAD, 2: BAD}).is_lost(2, 0)
    assert race_of(study, {0: BAD, 1: GOOD, 2: BAD}).is_lost(2, 0)


def test_a_picture_without_a_group_is_a_group_of_its_own(plan: StudyPlan) -> None:
    pictures = tuple(
        replace(picture, group=None) if index < 3 else picture
        for index, picture in enumerate(plan.dataset.pictures)
    )
    loose = replace(plan, dataset=replace(plan.dataset, pictures=pictures))
    assert groups_by_fold(plan) == [["piece1", "piece1"], ["piece2", "piece2"]]
    assert groups_by_fold(loose) == [[1, "piece1"], [2, "piece2"]]


def test_a_racing_study_stops_hopeless_trials_after_a_whole_fold(tmp_path: Path) -> None:
    """Trained for real, because racing reads the predictions that a trainer stores."""
    plan = make_plan(write_pictures(tmp_path / "pictures"), tmp_path / "runs")
    # From random heads, the first trials learn something and the drawn rates hardly anything.
    rates = {"low": 1e-9, "high": 1e-2, "log": True}
    space = SPACE | {
        "parameters": SPACE["parameters"] | {"learning_rate": rates},
        "defaults": SPACE["defaults"] | {"learning_rate": 1e-2},
    }
    plan = replace(
        plan,
        space=SearchSpace.from_dict(space).as_dict(),
        settings=replace(plan.settings, pruner="racing", linear_probe=False),
    )
    database = Database.open(f"sqlite:///{tmp_path / 'bench.db'}")
    environment = describe_environment(None)
    database.save_plan(plan, environment)
    study = open_study(plan, database)
    executor = make_executor(plan, 1)
    Coordinator(plan, study, database, SilentProgress()).run(executor, Budget(trials=8))
    executor.close()

    trials = load_trials(database, plan)
    database.close()
    pruned = [trial for trial in trials if trial.state == "PRUNED"]
    assert trials[0].state == "COMPLETE", "there is nothing to race against yet"
    assert pruned, "a rate that changes nothing cannot keep up with 1e-2"
    assert {len(trial.epochs) for trial in pruned} == {plan.settings.epochs}
    assert len(trials) == 8
