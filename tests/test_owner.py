"""A study belongs to one process: what a second one may do, and what `bench status` shows."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cli
from bench import pipeline
from bench.database import Database
from bench.errors import StudyLockedError, StudyMismatchError
from bench.latency import LatencyProtocol
from bench.progress import SilentProgress
from bench.promote.precisions import VariantChoice
from bench.records import Environment, StudyPlan
from bench.search.lock import own
from bench.search.options import SearchOptions
from bench.search.study import open_study
from bench.space import SearchSpace
from bench.workspace import Workspace
from tests.tiny import SPACE


@pytest.fixture
def begun(plan: StudyPlan, database: Database, environment: Environment) -> StudyPlan:
    """A study in the database."""
    plan = replace(plan, space=SearchSpace.from_dict(SPACE).as_dict())
    database.save_plan(plan, environment)
    return plan


class Trained(BaseException):
    """Carries the plan that came as far as training."""


def search(monkeypatch: pytest.MonkeyPatch, plan: StudyPlan, folder: Path, url: str) -> None:
    """Search from another workspace, as far as training; no picture of the plan is there."""

    def train(plan: StudyPlan, *_: Any) -> None:
        raise Trained(plan)

    monkeypatch.setattr(pipeline, "make_plan", lambda *_: plan)
    monkeypatch.setattr(pipeline, "make_executor", train)
    with Database.open(url) as database:
        pipeline.search(
            None,
            SearchOptions(),
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


def test_a_study_begun_otherwise_while_the_plan_was_made_is_not_gone_on_with(
    monkeypatch: pytest.MonkeyPatch,
    begun: StudyPlan,
    database: Database,
    storage_url: str,
    tmp_path: Path,
) -> None:
    late = replace(begun, settings=replace(begun.settings, seed=99))

    with pytest.raises(StudyMismatchError, match="setting seed: 1 -> 99"):
        search(monkeypatch, late, tmp_path, storage_url)

    assert database.load_plan("pets") == begun


def test_a_study_goes_on_with_the_arithmetic_that_it_was_begun_with(
    monkeypatch: pytest.MonkeyPatch, begun: StudyPlan, storage_url: str, tmp_path: Path
) -> None:
    measured = {
        name: replace(chosen, dtype="bfloat16") for name, chosen in begun.arithmetic.items()
    }

    with pytest.raises(Trained) as caught:
        search(monkeypatch, replace(begun, arithmetic=measured), tmp_path, storage_url)

    assert caught.value.args[0].arithmetic == begun.arithmetic


def test_status_tells_running_trials_from_interrupted_ones(
    begun: StudyPlan,
    database: Database,
    storage_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = open_study(begun, database)
    study.ask(SearchSpace.from_dict(begun.space).distributions())
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["bench", "status", "--json", "--storage", storage_url])

    def status() -> dict[str, Any]:
        with pytest.raises(SystemExit):
            cli.main()
        (row,) = json.loads(capsys.readouterr().out)
        return {name: row[name] for name in ("running", "interrupted", "owner")}

    with own("pets", database, lambda _: None):
        owner = database.load_owner("pets")
        assert status() == {"running": 1, "interrupted": 0, "owner": str(owner)}
    assert status() == {"running": 0, "interrupted": 1, "owner": None}
