"""What the owner of a study remembers is what the database holds, and it does not ask again."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event

from bench.database import Database
from bench.search.storage import OwnedStorage

DISTRIBUTIONS = {
    "rate": FloatDistribution(1e-5, 1e-2, log=True),
    "depth": IntDistribution(0, 5),
    "policy": CategoricalDistribution(["none", "light"]),
}


@pytest.fixture
def study(database: Database) -> optuna.Study:
    return optuna.create_study(
        study_name="owned",
        storage=OwnedStorage(database.storage),
        sampler=optuna.samplers.TPESampler(n_startup_trials=2, seed=0),
        pruner=optuna.pruners.MedianPruner(1, 0),
        direction="maximize",
    )


def begin(study: optuna.Study) -> optuna.Trial:
    trial = study.ask(DISTRIBUTIONS)
    trial.set_user_attr("remark", ["slow"])
    trial.report(0.5 + 0.01 * trial.number, 0)
    return trial


def known(trial: FrozenTrial) -> dict[str, Any]:
    """All that is known of a trial, without its times: a moment lies between the two clocks."""
    times = ("_datetime_start", "datetime_start", "datetime_complete")
    return {name: value for name, value in vars(trial).items() if name not in times}


def stored(study: optuna.Study, database: Database) -> list[FrozenTrial]:
    """What another process would read."""
    return optuna.load_study(study_name=study.study_name, storage=database.storage).trials


def test_it_remembers_what_another_process_would_read(
    study: optuna.Study, database: Database
) -> None:
    study.enqueue_trial({"rate": 1e-3, "depth": 2, "policy": "light"}, user_attrs={"first": True})
    study.enqueue_trial({"rate": 1e-4})
    for number in range(6):
        trial = begin(study)
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
        state = states[number % 4]
        if state != TrialState.RUNNING:
            study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state=state)

    read = stored(study, database)

    assert [known(trial) for trial in study.trials] == [known(trial) for trial in read]
    assert len({trial.state for trial in read}) == 4
    for ours, theirs in zip(study.trials, read, strict=True):
        assert (ours.datetime_complete is None) == (theirs.datetime_complete is None)
        assert (ours.datetime_start is None) == (theirs.datetime_start is None)


def test_a_study_that_goes_on_begins_with_what_is_stored(
    study: optuna.Study, database: Database
) -> None:
    study.tell(begin(study), 0.5)
    begin(study)

    resumed = optuna.load_study(study_name="owned", storage=OwnedStorage(database.storage))

    assert resumed.trials == stored(study, database)
    resumed.tell(1, 0.7)
    assert resumed.best_trial.number == 1


@pytest.mark.parametrize("running", [1, 5])
def test_pruning_and_drawing_read_nothing_however_many_trials_run(
    study: optuna.Study, database: Database, running: int
) -> None:
    for _ in range(3):
        study.tell(begin(study), 0.5)
    trials = [begin(study) for _ in range(running)]
    transactions = []
    event.listen(database.storage.engine, "begin", transactions.append)

    trials[0].should_prune()
    study.sampler.sample_relative(study, study.trials[-1], {})

    assert transactions == []


def test_what_was_read_does_not_change_under_its_reader(study: optuna.Study) -> None:
    trial = begin(study)
    (before,) = study.get_trials(deepcopy=False)

    trial.report(0.9, 1)
    study.tell(trial, 0.9)

    assert before.state == TrialState.RUNNING
    assert set(before.intermediate_values) == {0}
