"""A search that is killed again and again ends exactly as one that is left alone."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.database import Database
from bench.results import load_plan, load_trials
from tests.search.soak import wait_for_rows
from tests.tiny import BACKBONE, timeless_scores, write_pictures

TRIALS, FOLDS, EPOCHS, KILLS = 8, 2, 3, 10
pytestmark = pytest.mark.slow


def start(pictures: Path, workspace: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "cli", "search", str(pictures), "--study", "tiny",
        "--trials", str(TRIALS), "--folds", str(FOLDS), "--epochs", str(EPOCHS),
        "--space", "demo", "--backbone", BACKBONE, "--image-size", "32", "--batch-size", "4",
        "--crop", "none", "--device", "cpu", "--no-pretrained", "--no-promote", "--quiet",
        "--workspace", str(workspace),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)


def facts(workspace: Path) -> list[tuple[Any, ...]]:
    """All that a study found out, without the times at which it did."""
    database = Database.open(f"sqlite:///{workspace / 'bench.db'}")
    try:
        trials = load_trials(database, load_plan(database, "tiny"))
    finally:
        database.close()
    return [
        (t.number, t.state, t.value, t.recipe, t.is_default, tuple(map(timeless_scores, t.epochs)))
        for t in trials
    ]


def hand_over_plan(source: Path, target: Path) -> None:
    """Give another workspace the same plan: its arithmetic is measured, so it may vary by run."""
    target.mkdir()
    given, taking = (Database.open(f"sqlite:///{place / 'bench.db'}") for place in (source, target))
    environment = given.load_environment("tiny")
    assert environment is not None
    taking.save_plan(replace(load_plan(given, "tiny"), workspace=str(target)), environment)
    given.close()
    taking.close()


def test_killed_ten_times_a_study_loses_nothing_doubles_nothing_and_changes_nothing(
    tmp_path: Path,
) -> None:
    pictures = write_pictures(tmp_path / "pictures")
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    moments = random.Random(0)

    for _ in range(KILLS):
        process = start(pictures, killed)
        wait_for_rows(process, killed / "bench.db", moments.randint(1, 25))
        process.kill()
        process.wait()
    assert start(pictures, killed).wait() == 0
    hand_over_plan(killed, undisturbed)
    assert start(pictures, undisturbed).wait() == 0

    ended = facts(killed)
    assert [(number, state in ("COMPLETE", "PRUNED")) for number, state, *_ in ended] == [
        (number, True) for number in range(TRIALS)
    ]
    assert ended == facts(undisturbed)
    with closing(sqlite3.connect(killed / "bench.db")) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        counted = opened.execute("SELECT count(*) FROM trials").fetchone()
        assert counted == (TRIALS,)
