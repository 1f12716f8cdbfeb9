"""A search does the same on SQLite and on PostgreSQL, while other processes read along."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bench.database import Database
from bench.ownership import own
from bench.progress import SilentProgress
from bench.records import EpochDone, Event, StudyPlan, TrialDone, TrialJob
from bench.results import load_study_report
from bench.search.budget import Budget
from bench.search.coordinator import Coordinator
from bench.search.study import open_study
from tests.records import epoch_scores
from tests.storages import empty_storage, on_each_storage

TRIALS = 4

# Answers each line with what `bench status`, a report and the dashboard read at that moment.
READER = """
import json, sys, wsgiref.util
import optuna_dashboard
from bench.database import Database
from bench.results import load_study_report
from bench.ownership import owner_of

with Database.open(sys.stdin.readline().strip()) as database:
    dashboard = optuna_dashboard.wsgi(database.storage)
    for _ in sys.stdin:
        report = load_study_report(database, "pets")
        owner = owner_of("pets", database)
        environ = {"PATH_INFO": "/api/studies"}
        wsgiref.util.setup_testing_defaults(environ)
        shown = json.loads(b"".join(dashboard(environ, lambda *_: None)))
        print(json.dumps({
            "states": [trial.state for trial in report.trials],
            "epochs": sum(len(trial.epochs) for trial in report.trials),
            "owner": owner and owner.pid,
            "dashboard": [study["study_name"] for study in shown["study_summaries"]],
        }), flush=True)
"""


class Killed(BaseException):
    """Not an `Exception`, as a kill is none that anybody could catch."""


class ScriptedExecutor:
    """One trial at a time, scored by its recipe: training is not what these tests are about."""

    slots = 1

    def __init__(self, plan: StudyPlan, heard: Callable[[int], None] = lambda _: None) -> None:
        self._plan = plan
        self._heard = heard
        self._events: Iterator[Event] = iter(())
        self._told = 0

    def submit(self, job: TrialJob) -> None:
        self._events = self._script(job)

    def next_event(self, timeout_s: float | None = None) -> Event:
        self._heard(self._told)
        self._told += 1
        return next(self._events)

    def answer(self, trial: int, *, go_on: bool) -> None:
        pass

    def cancel(self, trial: int) -> None:
        pass

    def close(self) -> None:
        pass

    def _script(self, job: TrialJob) -> Iterator[Event]:
        score = 0.5 + 0.05 * job.recipe.freeze_depth
        for fold in range(len(self._plan.split.folds)):
            for epoch in range(self._plan.settings.epochs):
                yield EpochDone(
                    trial=job.number,
                    scores=epoch_scores(fold, epoch, score),
                )
        yield TrialDone(trial=job.number)


def run(plan: StudyPlan, database: Database, executor: ScriptedExecutor, said: list[str]) -> None:
    """Run the study as `bench search` does."""
    with own(plan.study, database, said.append):
        study = open_study(plan, database)
        Coordinator(plan, study, database, SilentProgress()).run(executor, Budget(trials=TRIALS))


@contextmanager
def reader(url: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """Another process that reads when it is asked to."""
    command = [sys.executable, "-W", "ignore", "-c", READER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None

        def read() -> dict[str, Any]:
            stdin.write("\n")
            stdin.flush()
            found: dict[str, Any] = json.loads(stdout.readline())
            return found

        try:
            stdin.write(f"{url}\n")
            stdin.flush()
            yield read
        finally:
            process.kill()


storage_url = on_each_storage(empty_storage)


@pytest.fixture
def plan(study_plan: StudyPlan, database: Database, environment: Any) -> StudyPlan:
    database.save_plan(study_plan, environment)
    return study_plan


def test_a_study_killed_and_gone_on_with_has_exactly_its_trials_while_others_read(
    plan: StudyPlan, database: Database, storage_url: str
) -> None:
    steps = len(plan.split.folds) * plan.settings.epochs
    said: list[str] = []
    with reader(storage_url) as read:

        def look_and_die(told: int) -> None:
            """At the second trial's first epoch look, and at its second one die."""
            if told == steps + 2:
                seen = read()
                assert seen["states"] == ["COMPLETE", "RUNNING"]
                assert seen["epochs"] == steps + 1
                assert seen["dashboard"] == ["pets"]
                assert seen["owner"] is not None
                raise Killed

        with pytest.raises(Killed):
            run(plan, database, ScriptedExecutor(plan, look_and_die), said)
        seen = read()
        assert (seen["states"], seen["owner"]) == (["COMPLETE", "INTERRUPTED"], None)

        run(plan, database, ScriptedExecutor(plan), said)
        assert len(read()["states"]) == TRIALS

    trials = load_study_report(database, "pets").trials
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state for trial in trials} <= {"COMPLETE", "PRUNED"}
    for trial in trials:
        assert trial.value == pytest.approx(0.5 + 0.05 * trial.recipe.freeze_depth)
        if trial.state == "COMPLETE":
            assert len(trial.epochs) == steps

    def trains(_told: int) -> None:
        raise AssertionError("a study that has its trials went on")

    run(plan, database, ScriptedExecutor(plan, trains), said)
    # The kill is an exception here, so that the owner hands the study back on its way out.
    assert said == []
