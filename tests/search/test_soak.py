"""Killed fifty times, a study ends with exactly its trials, none lost, none doubled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.records import StudyPlan
from tests.search.soak import expected_value, facts, soak, undisturbed

TRIALS = 40


@pytest.mark.parametrize(
    ("workers", "kills"),
    [
        (1, 3),
        pytest.param(4, 3, marks=pytest.mark.slow),
        pytest.param(1, 50, marks=pytest.mark.slow),
        pytest.param(4, 50, marks=pytest.mark.slow),
    ],
)
def test_kills_lose_nothing_and_double_nothing(
    study_plan: StudyPlan, tmp_path: Path, workers: int, kills: int
) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    plan = replace(study_plan, workspace=str(folder))

    ended = soak(plan, workers=workers, trials=TRIALS, kills=kills, seed=workers)

    assert ended.integrity == "ok"
    assert ended.rows == TRIALS
    assert [trial.number for trial in ended.trials] == list(range(TRIALS))
    assert {trial.state for trial in ended.trials} <= {"COMPLETE", "PRUNED"}
    for trial in ended.trials:
        if trial.state == "COMPLETE":
            assert trial.value == pytest.approx(expected_value(plan, trial), abs=1e-12)
        places = [(row.fold, row.epoch) for row in trial.epochs]
        assert len(set(places)) == len(places), "an epoch was counted twice"
    if workers == 1:
        # With one worker even the recipes and the prunings are those of an undisturbed run.
        assert facts(ended.trials) == facts(undisturbed(plan, TRIALS, tmp_path / "left alone"))
