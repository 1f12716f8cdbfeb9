"""A study belongs to one process: what a second one may do, and what `bench status` shows."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from bench import pipeline
from bench.database import Database
from bench.errors import StudyLockedError
from bench.latency.measuring import LatencyProtocol
from bench.ownership import own
from bench.progress import SilentProgress
from bench.promote.precisions import VariantChoice
from bench.records import Environment, StudyPlan
from bench.results import latest_study
from bench.search.options import SearchOptions
from bench.search.study import TARGET, open_study
from bench.space import SearchSpace
from bench.workspace import Workspace
from tests.command import Bench, bench_heard_by
from tests.tiny import SPACE


@pytest.fixture
def begun(plan: StudyPlan, database: Database, environment: Environment) -> StudyPlan:
    """A study in the database."""
    plan = replace(plan, space=SearchSpace.from_dict(SPACE).as_dict())
    database.save_plan(plan, environment)
    return plan


class Trained(BaseException):
    """A search that came as far as training."""


def search(monkeypatch: pytest.MonkeyPatch, plan: StudyPlan, folder: Path, url: str) -> None:
    """Search from another workspace, as far as training; no picture of the plan is there."""

    def train(*_: Any) -> None:
        raise Trained

    monkeypatch.setattr(pipeline, "make_plan", lambda *_: plan)
    monkeypatch.setattr(pipeline, "make_executor", train)
    search_pets(folder, url)


def search_pets(folder: Path, url: str) -> None:
    with Database.open(url) as database:
        pipeline.search(
            None,
            SearchOptions(study="pets"),
            workspace=Workspace(folder),
            database=database,
            listener=SilentProgress(),
        )


def test_two_workspaces_with_one_storage_cannot_run_one_study(
    monkeypatch: pytest.MonkeyPatch,
    begun: StudyPlan,
    database: Database,
    storage_url: str,
    tmp_path: Path,
) -> None:
    with own("pets", database, print):
        with pytest.raises(StudyLockedError, match=f"process {os.getpid()}"):
            search(monkeypatch, begun, tmp_path / "other", storage_url)
        with Database.open(storage_url) as other, pytest.raises(StudyLockedError):
            pipeline.promote(
                "pets",
                workspace=Workspace(tmp_path / "other"),
                database=other,
                listener=SilentProgress(),
                protocol=LatencyProtocol.quick(),
                variants=VariantChoice(),
            )

    with pytest.raises(Trained):
        search(monkeypatch, begun, tmp_path / "other", storage_url)


def test_a_plan_is_made_by_the_owner_so_that_nobody_begins_the_study_otherwise_meanwhile(
    monkeypatch: pytest.MonkeyPatch, database: Database, storage_url: str, tmp_path: Path
) -> None:
    def prepares(*_: Any) -> None:
        with pytest.raises(StudyLockedError), own("pets", database, print):
            pass
        raise Trained

    monkeypatch.setattr(pipeline, "make_plan", prepares)
    with pytest.raises(Trained):
        search_pets(tmp_path, storage_url)


# --- what others see ------------------------------------------------------------------------


@pytest.fixture
def bench(
    storage_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Bench:
    """Run the command line on the database."""
    run = bench_heard_by(capsys, monkeypatch)
    return lambda *arguments: run(*arguments, "--storage", storage_url)


def test_status_tells_running_trials_from_interrupted_ones(
    begun: StudyPlan, database: Database, bench: Bench
) -> None:
    study = open_study(begun, database)
    study.ask(SearchSpace.from_dict(begun.space).distributions())

    def status() -> dict[str, Any]:
        (row,) = json.loads(bench("status", "--json").out)
        return {name: row[name] for name in ("running", "interrupted", "owner")}

    with own("pets", database, lambda _: None):
        owner = database.load_owner("pets")
        assert status() == {"running": 1, "interrupted": 0, "owner": str(owner)}
    assert status() == {"running": 0, "interrupted": 1, "owner": None}


def test_status_tells_that_the_search_is_done_and_models_are_made(
    begun: StudyPlan, database: Database, bench: Bench
) -> None:
    study = open_study(begun, database)
    making = "making and measuring its models"
    with own("pets", database, lambda _: None):
        study.set_user_attr(TARGET, 1)
        trial = study.ask(SearchSpace.from_dict(begun.space).distributions())
        assert making not in bench("status").out
        study.tell(trial, 0.5)
        assert making in bench("status").out
        database.save_preparing("pets")
        assert making not in bench("status").out, "another run begins"


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("owned", [False, True])
def test_a_study_without_a_finished_trial_is_there_and_told_what_it_waits_for(
    prepared: bool,
    owned: bool,
    plan: StudyPlan,
    database: Database,
    environment: Environment,
    bench: Bench,
) -> None:
    database.save_preparing("pets")
    if prepared:
        database.save_plan(plan, environment)
    doing, stopped = (
        ("run", "before its first trial was finished")
        if prepared
        else ("prepared", "while it was being prepared")
    )
    said, remedy = (
        (f"'pets' is being {doing} by process {os.getpid()} on ", "wait for its first one")
        if owned
        else (f"'pets' was stopped {stopped}: ", "give its `bench search` command again")
    )

    with own("pets", database, print) if owned else nullcontext():
        for command in (["status"], ["status", "pets"]):
            told = bench(*command)
            assert (told.code, told.err) == (0, "")
            assert said in told.out and remedy in told.out
        for command in (["report"], ["report", "pets"], ["promote", "pets"]):
            told = bench(*command)
            assert (told.code, told.out) == (2, "")
            assert said in told.err and remedy in told.err
        (row,) = json.loads(bench("status", "--json").out)

    assert (row["prepared"], row["owner"] is not None) == (prepared, owned)


def test_the_latest_study_is_the_last_with_something_to_report(
    begun: StudyPlan, database: Database
) -> None:
    """A newer one that is being prepared does not hide it."""
    assert latest_study(database) == begun.study, "there is no other"
    study = open_study(begun, database)
    trial = study.ask(SearchSpace.from_dict(begun.space).distributions())
    study.tell(trial, state=TrialState.FAIL)
    database.save_preparing("newer")
    assert database.studies() == (begun.study, "newer")
    assert latest_study(database) == begun.study


def test_a_trial_that_failed_is_something_to_report(
    begun: StudyPlan, database: Database, bench: Bench, tmp_path: Path
) -> None:
    study = open_study(begun, database)
    trial = study.ask(SearchSpace.from_dict(begun.space).distributions())
    study.tell(trial, state=TrialState.FAIL)

    told = bench("report", "--out", str(tmp_path / "report"), "--workspace", str(tmp_path))

    assert told.code == 0, told.err
    assert "stopped before" not in bench("status").out
