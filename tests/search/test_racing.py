"""Racing stops what is worse beyond chance, and leaves what is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.database import Database
from bench.progress import SilentProgress
from bench.results import load_trials
from bench.search.coordinator import Coordinator
from bench.search.executors import make_executor
from bench.search.racing import ALPHA, is_worse, log_losses
from bench.search.study import open_study
from bench.workspace import describe_environment
from tests.tiny import make_plan, write_pictures


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


def test_a_racing_study_stops_hopeless_trials_after_a_whole_fold(tmp_path: Path) -> None:
    """Trained for real, because racing reads the predictions that a trainer stores."""
    plan = make_plan(write_pictures(tmp_path / "pictures"), tmp_path / "runs")
    plan = replace(plan, settings=replace(plan.settings, pruner="racing"))
    database = Database.open(f"sqlite:///{tmp_path / 'bench.db'}")
    environment = describe_environment(None)
    database.save_plan(plan, environment)
    study = open_study(plan, database)
    executor = make_executor(plan, 1)
    Coordinator(plan, study, database, SilentProgress()).run(executor, 8)
    executor.close()

    trials = load_trials(database, plan)
    database.close()
    pruned = [trial for trial in trials if trial.state == "PRUNED"]
    assert trials[0].state == "COMPLETE", "there is nothing to race against yet"
    assert pruned, "a rate of 1e-5 cannot keep up with 1e-3"
    assert {len(trial.epochs) for trial in pruned} == {plan.settings.epochs}
    assert len(trials) == 8
